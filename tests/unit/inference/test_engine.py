import functools
import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engines import PATCH, a_bundle, a_volume, volume_of
from machines import needs_bfloat16

from flare23_lib.errors import BundleError, ConfigError, ImageError
from flare23_lib.inference import engine as engine_module
from flare23_lib.inference import memory
from flare23_lib.inference.engine import Engine, all_flips
from flare23_lib.inference.image_files import Extras
from flare23_lib.inference.logit_accumulator import TTAAgreement
from flare23_lib.inference.memory import Limits
from flare23_lib.inference.model import InferenceDefaults
from flare23_lib.inference.network import WindowNetwork
from flare23_lib.inference.upsampling import SURE
from flare23_lib.inference.windows import all_windows, importance_map, pad_to_patch
from flare23_lib.labels import unpack_soft
from flare23_lib.networks import STUNetArchitecture
from flare23_lib.preprocessing.resampling import write_nearest
from flare23_lib.runtime.precision import inference_precision


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for one another on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nnunets_labels(bundle, volume, mirroring):
    """Labels of nnU-Net's own predictor, at the volume's resolution."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False
    )
    heads = SimpleNamespace(num_segmentation_heads=len(bundle.model.labels))
    predictor.manual_initialization(
        network=bundle.build_network(),
        plans_manager=SimpleNamespace(get_label_manager=lambda _: heads),
        configuration_manager=SimpleNamespace(patch_size=PATCH),
        parameters=None,
        dataset_json={},
        trainer_name="",
        inference_allowed_mirroring_axes=(0, 1, 2),
    )
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(volume.array)[None])
    labels = logits.float().argmax(dim=0).numpy()
    assert len(np.unique(labels)) > 1
    return labels


@pytest.mark.parametrize("mirroring", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_labels_are_those_of_nnunets_own_predictor(mirroring):
    bundle, volume = a_bundle(), a_volume((19, 33, 37))
    labels = Engine(bundle.with_inference(step=0.5, tta=mirroring)).segment(volume).labels
    # Random weights leave many near-ties, and nnU-Net sums in float16: worst at an image's corners, where the
    # Gaussian weights are near 0. The next test takes float16 out.
    assert (labels == nnunets_labels(bundle, volume, mirroring)).mean() >= 0.998


@pytest.mark.parametrize("shape", [(13, 25, 20), (5, 20, 12)])
@pytest.mark.parametrize("mirroring", [False, True])
def test_labels_are_those_of_nnunet_to_the_voxel_if_it_sums_in_float32(monkeypatch, shape, mirroring):
    from nnunetv2.inference import predict_from_raw_data

    weights = predict_from_raw_data.compute_gaussian
    monkeypatch.setattr(predict_from_raw_data, "compute_gaussian", functools.partial(weights, dtype=torch.float32))
    monkeypatch.setattr(torch, "half", torch.float32)
    bundle, volume = a_bundle(), a_volume(shape)
    labels = Engine(bundle.with_inference(step=0.5, tta=mirroring)).segment(volume).labels
    assert (labels != nnunets_labels(bundle, volume, mirroring)).sum() <= 1


ORIENTATIONS = ["RAS", "LPS", "LAS", "RPI", "SAR", "PIL"]


def reoriented(volume, codes):
    """Store a volume with its axes in another order and direction; the same voxels at the same places."""
    image = nib.Nifti1Image(volume.array.T, volume.geometry.affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    return volume_of(np.asarray(turned.dataobj).T, turned.affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_canonical_model_gives_the_same_labels_however_the_image_is_stored(codes):
    engine = Engine(a_bundle(orientation="canonical", spacing=(2.0, 1.5, 1.0)).with_inference(tta=False))
    affine = np.array([[-0.9, 0, 0, 30], [0, 1.1, 0, -20], [0, 0, 2.5, 7], [0, 0, 0, 1]])
    volume = a_volume(affine=affine)
    turned = reoriented(volume, codes)
    there = volume_of(engine.segment(turned).labels, turned.geometry.affine)
    assert there.array.shape == turned.array.shape
    back = reoriented(there, "".join(nib.aff2axcodes(affine)))
    assert np.array_equal(back.array, engine.segment(volume).labels)
    assert len(np.unique(back.array)) > 1


def test_a_stored_model_ignores_the_direction():
    engine = Engine(a_bundle(orientation="stored"))
    plain = a_volume(affine=np.eye(4))
    turned = volume_of(plain.array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert np.array_equal(engine.segment(plain).labels, engine.segment(turned).labels)
    canonical = Engine(a_bundle(orientation="canonical"))
    assert not np.array_equal(canonical.segment(plain).labels, canonical.segment(turned).labels)


def test_labels_come_out_as_file_values():
    plain = Engine(a_bundle()).segment(a_volume())
    renamed = Engine(a_bundle(values=(0, 20, 3, 7))).segment(a_volume())
    assert renamed.labels.dtype == np.uint8
    table = np.array([0, 20, 3, 7], dtype=np.uint8)
    assert np.array_equal(renamed.labels, table[plain.labels])
    assert len(np.unique(renamed.labels)) > 2


def whole_logits(engine, image):
    """Logits (classes, z, y, x) of all windows and passes, summed over the whole image at once."""
    padded, box = pad_to_patch(image, PATCH)
    weights, coverage = importance_map(PATCH), torch.zeros(padded.shape)
    total = torch.zeros((len(engine.model.labels), *padded.shape))
    for slab in all_windows(padded.shape, PATCH, engine.model.inference.step):
        for window in slab.windows:
            coverage[window] += weights
            for flip in engine.flips:
                dims = [axis + 1 for axis in flip]
                logits = engine._network(padded[window][None].flip(dims)).flip(dims)[0]
                total[(slice(None), *window)] += logits.permute(3, 0, 1, 2) * weights
    return (total / coverage)[(slice(None), *box)]


@pytest.mark.parametrize(("spacing", "shape"), [((2.0, 2.0, 2.0), (13, 41, 37)), ((0.4, 1.5, 0.8), (9, 30, 20))])
@pytest.mark.parametrize("tta", [False, True])
def test_labels_are_those_of_interpolating_the_whole_images_logits(spacing, shape, tta):
    engine = Engine(a_bundle(spacing=spacing).with_inference(tta=tta))
    volume = a_volume(shape)
    result = engine.segment(volume)
    assert result.labels.shape == shape
    with torch.inference_mode():
        logits = whole_logits(engine, engine.prepare(volume).image)
    full = F.interpolate(logits[None], size=shape, mode="trilinear", align_corners=False)[0]
    assert (result.labels == full.argmax(dim=0).numpy()).mean() > 0.9999
    assert len(np.unique(result.labels)) > 2


@pytest.mark.parametrize("shape", [(3, 20, 20), (8, 5, 30), (1, 1, 1), (7, 15, 15)])
def test_an_image_smaller_than_the_patch_is_segmented_whole(shape):
    assert Engine(a_bundle().with_inference(tta=True)).segment(a_volume(shape)).labels.shape == shape


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_a_class_that_the_model_never_saw_is_never_the_answer(precision):
    bundle = a_bundle(values=(0, 20, 3, 7))
    unseen = replace(bundle, model=replace(bundle.model, unseen=("label_20",)))
    assert (Engine(bundle.with_inference(precision=precision)).segment(a_volume()).labels == 20).any()
    result = Engine(unseen.with_inference(precision=precision, tta=True)).segment(a_volume(), Extras(votes=True))
    assert not (result.labels == 20).any()
    made = Engine(unseen.with_inference(precision=precision)).segment(a_volume()).labels
    bundle.state_dict["seg_outputs.1.bias"][1] = -1e4
    expected = Engine(bundle.with_inference(precision=precision)).segment(a_volume()).labels
    assert np.array_equal(made, expected)


def test_a_result_repeats_to_the_bit():
    engine = Engine(a_bundle().with_inference(tta=True))
    first, second = engine.segment(a_volume()), engine.segment(a_volume())
    assert np.array_equal(first.labels, second.labels)
    assert first.tta_agreement == second.tta_agreement


@pytest.fixture(scope="module", params=["all", pytest.param("center_first", marks=pytest.mark.slow)])
def whole(request):
    """A function that segments a volume, and what it gives if the work is not cut."""
    volume, bundle = a_volume((27, 37, 30)), a_bundle(spacing=(1.3, 1.0, 0.7), mirror_axes=(0, 2))

    def segment():
        engine = Engine(bundle.with_inference(tta=True, windows=request.param, precision="float32"))
        return engine.segment(volume, Extras(soft=True))

    return segment, segment()


@pytest.mark.parametrize("change", [
    {"batch": 3}, {"slab_bytes": 1},
    *(pytest.param(change, marks=pytest.mark.slow) for change in ({"tiles": 3}, {"tiles": 7, "batch": 2})),
])  # fmt: skip
def test_how_the_work_is_cut_does_not_matter(monkeypatch, whole, change):
    segment, expected = whole
    plan = memory.plan
    monkeypatch.setattr(engine_module, "plan", lambda *given: replace(plan(*given), **change))
    cut = segment()
    assert (cut.labels == expected.labels).mean() >= 0.9999
    assert cut.tta_agreement == pytest.approx(expected.tta_agreement, abs=1e-3)
    shares, others = (unpack_soft(result.soft)[2].astype(int) for result in (cut, expected))
    assert (np.abs(shares - others) <= 1).mean() >= 0.999
    assert cut.windows >= expected.windows


@needs_bfloat16
def test_bfloat16_gives_nearly_the_same_labels():
    full, half = (
        Engine(a_bundle().with_inference(precision=precision)).segment(a_volume()).labels
        for precision in ("float32", "bfloat16")
    )
    assert (full == half).mean() > 0.9


def used(engine):
    options = engine.model.inference
    return options.step, options.tta, options.windows, engine.precision


def test_the_models_defaults_hold_unless_others_are_asked_for():
    defaults = InferenceDefaults(step=0.8, tta=True, windows="center_first", precision="auto")
    bundle = a_bundle(inference=defaults)
    engine = Engine(bundle)
    fastest = inference_precision("auto", torch.device("cpu"))
    assert used(engine) == (0.8, True, "center_first", fastest)
    engine = Engine(bundle.with_inference(step=0.5, tta=False, windows="all", precision="float32"))
    assert used(engine) == (0.5, False, "all", "float32")


def test_every_phase_is_timed():
    timings = Engine(a_bundle()).segment(a_volume()).timings
    assert set(timings) == {"resample", "windows", "labels"}


def test_mirroring_takes_every_combination_of_axes_once():
    assert all_flips(()) == [()]
    assert all_flips((0, 2)) == [(), (0,), (2,), (0, 2)]
    assert len(set(all_flips((0, 1, 2)))) == 8


def test_agreement_is_the_mean_dice_of_the_passes_that_count():
    mean = torch.tensor([0, 1, 1, 2])
    passes = [torch.tensor([0, 1, 1, 2], dtype=torch.uint8), torch.tensor([0, 1, 3, 2], dtype=torch.uint8)]
    expected = pytest.approx([1, (1 + 2 / 3) / 2, 1, 0, None])
    whole, parts = TTAAgreement(5, 2), TTAAgreement(5, 2)
    whole.add(passes, mean)
    for part in (slice(0, 1), slice(1, 4)):
        parts.add([labels[part] for labels in passes], mean[part])
    assert whole.scores() == expected
    assert parts.scores() == expected


def test_agreement_is_given_by_label_name_and_only_with_mirroring():
    assert Engine(a_bundle().with_inference(tta=False)).segment(a_volume()).tta_agreement == {}
    agreement = Engine(a_bundle(values=(0, 20, 3, 7)).with_inference(tta=True)).segment(a_volume()).tta_agreement
    assert list(agreement) == ["label_20", "label_3", "label_7"]
    assert all(score is None or 0 <= score <= 1 for score in agreement.values())
    assert any(score for score in agreement.values())


def test_votes_count_the_passes_that_say_what_their_mean_says(monkeypatch):
    # The volume has the model's resolution, so the passes' labels can be had one by one.
    engine, volume = Engine(a_bundle().with_inference(tta=True)), a_volume()
    flips = engine.flips
    result = engine.segment(volume, Extras(votes=True))
    assert np.array_equal(engine.segment(volume).labels, result.labels)
    expected = np.zeros(volume.array.shape, int)
    for flip in flips:
        monkeypatch.setattr(Engine, "flips", [flip])
        expected += engine.segment(volume).labels == result.labels
    assert result.passes == len(flips) == 8
    assert len(np.unique(expected)) > 4
    # Single passes are summed in bfloat16: nearly equal logits may go either way.
    assert (result.tta_vote_count == expected).mean() > 0.95
    assert np.abs(result.tta_vote_count - expected).max() <= 2


def test_votes_are_taken_from_the_nearest_voxel():
    agreement = TTAAgreement(3, 4, shape=(2, 2, 3))
    mean = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8)
    passes = [torch.tensor([[values]], dtype=torch.uint8) for values in ([0, 1, 2], [0, 1, 0], [0, 0, 0], [1, 1, 0])]
    agreement.add(passes, mean, (slice(1, 2), slice(0, 1), slice(0, 3)))
    seen = np.zeros((4, 2, 6), np.uint8)
    write_nearest(agreement.vote_count, seen)
    assert seen[:, 0].tolist() == [[4] * 6] * 2 + [[3, 3, 3, 3, 1, 1]] * 2
    assert (seen[:, 1] == 4).all(), "where nothing was computed all passes agree on background"


def test_votes_without_mirroring_are_refused():
    with pytest.raises(ConfigError, match="votes"):
        Engine(a_bundle().with_inference(tta=False)).segment(a_volume(), Extras(votes=True))


@pytest.mark.parametrize("tta", [False, True])
def test_soft_labels_have_the_two_strongest_classes_and_the_share_of_the_first(tta):
    engine, volume = Engine(a_bundle(values=(0, 20, 3, 7)).with_inference(tta=tta, precision="float32")), a_volume()
    result = engine.segment(volume, Extras(soft=True))
    assert engine.segment(volume).soft is None
    assert np.array_equal(engine.segment(volume).labels, result.labels)
    with torch.inference_mode():
        logits = whole_logits(engine, engine.prepare(volume).image) / result.passes
    probabilities, classes = logits.softmax(0).topk(2, 0)
    expected = (probabilities[0] / probabilities.sum(0)).numpy()
    first, second, share = unpack_soft(result.soft)
    assert set(np.unique(share)) - {0} <= set(range(128, 253))
    hesitating = share > 0
    assert hesitating.mean() > 0.05
    assert np.array_equal(
        hesitating[np.abs(expected - SURE) > 1e-4], (expected < SURE)[np.abs(expected - SURE) > 1e-4]
    )
    np.testing.assert_allclose(share[hesitating] / 255, expected[hesitating], atol=0.5 / 255 + 1e-4)
    table = np.array([0, 20, 3, 7])
    np.testing.assert_array_equal(first[hesitating], table[classes[0].numpy()][hesitating])
    np.testing.assert_array_equal(second[hesitating], table[classes[1].numpy()][hesitating])
    assert np.array_equal(first[hesitating], result.labels[hesitating]), "at the model's own resolution"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_volume_that_is_not_finite_is_refused(value):
    volume = a_volume()
    volume.array[0, 0, 0] = value
    with pytest.raises(ImageError, match="finite"):
        Engine(a_bundle()).segment(volume)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("windows", ["all", "center_first"])
def test_logits_that_are_not_finite_are_refused_instead_of_being_background(value, windows):
    bundle = a_bundle()
    bundle.state_dict["seg_outputs.1.bias"][2] = value
    with pytest.raises(ImageError, match="logits are not finite"):
        Engine(bundle.with_inference(windows=windows)).segment(a_volume())


def test_stored_integers_are_read_like_floats():
    volume = a_volume(dtype=np.int16)
    other = volume_of(volume.array.astype(">f8"), np.eye(4))
    engine = Engine(a_bundle())
    assert np.array_equal(engine.segment(volume).labels, engine.segment(other).labels)


@pytest.mark.parametrize(
    "options", [{"step": 0}, {"step": 1.5}, {"precision": "int8"}, {"precision": "float16"}, {"windows": "some"}]
)
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(ConfigError):
        Engine(a_bundle().with_inference(**options))


def test_a_model_of_several_channels_is_refused():
    with pytest.raises(BundleError, match="2 channels"):
        Engine(a_bundle(input_channels=2))


class Probe:
    """Stands for a network; says foreground where the patch is bright."""

    def __init__(self):
        self.count = 0

    def __call__(self, patches):
        self.count += len(patches)
        bright = (patches > 0).float()
        return torch.stack([1 - bright, bright, torch.zeros_like(bright) - 1, torch.zeros_like(bright) - 1], dim=-1)


def a_probed_engine(spacing=1.0, **options):
    engine = Engine(a_bundle(spacing=(spacing,) * 3).with_inference(step=1, **options))
    engine._network = Probe()
    return engine


def test_a_layer_without_foreground_in_its_center_is_left_out():
    array = np.full((24, 48, 48), -100, np.int16)
    array[:8, 24, 24] = 100
    array[:8, 3, 3] = 100
    array[16:, 3, 3] = 100
    engine = a_probed_engine(windows="center_first")
    result = engine.segment(volume_of(array, np.eye(4)))
    assert engine._network.count == result.windows == 9 + 1 + 1
    # In the last slab only what the central window sees is looked at; the rest is background by decision.
    assert set(map(tuple, np.argwhere(result.labels)[:, 1:])) == {(24, 24), (3, 3)}
    assert np.flatnonzero(result.labels.any(axis=(1, 2))).tolist() == list(range(8))
    assert a_probed_engine(windows="all").segment(volume_of(array, np.eye(4))).labels[16:, 3, 3].all()


def test_windows_over_the_body_are_fewer_and_find_the_same():
    y, x = np.ogrid[:96, :96]
    inside = (y - 40) ** 2 + (x - 50) ** 2 < 18**2
    array = np.full((24, 96, 96), -1000, np.int16)
    array[:, inside] = 20
    everything, body = (
        a_probed_engine(windows=windows, spacing=4.0).segment(volume_of(array, np.diag([4.0, 4, 4, 1])))
        for windows in ("all", "body")
    )
    assert np.array_equal(everything.labels, body.labels)
    assert np.array_equal(body.labels > 0, np.broadcast_to(inside, array.shape))
    assert body.windows < everything.windows / 2


def test_an_image_without_a_body_is_computed_whole_and_the_log_says_so(caplog):
    volume = volume_of(np.full((8, 40, 40), -1000, np.int16), np.eye(4))
    with caplog.at_level(logging.INFO):
        result = a_probed_engine(windows="body").segment(volume)
    assert "all of it is computed" in caplog.text
    assert result.windows == 9


def test_the_network_of_the_engine_is_the_network():
    bundle = a_bundle(network=STUNetArchitecture.of([2, 1, 1], [4, 8, 8], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]))
    patches = torch.randn(2, *PATCH)
    with torch.inference_mode():
        expected = bundle.build_network()(patches[:, None]).permute(0, 2, 3, 4, 1)
        for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.3)):
            made = WindowNetwork(bundle.build_network(), torch.device("cpu"), precision)(patches)
            assert made.is_contiguous()
            assert torch.allclose(made.float(), expected, atol=tolerance, rtol=0.05), precision


@pytest.mark.slow  # half a minute of the C++ compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_labels_as_the_plain_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    volume = volume_of(np.random.default_rng(0).normal(0, 300, (12, 20, 22)).astype(np.float32), np.eye(4))
    plain, compiled = (Engine(a_bundle(), compiled=option).segment(volume).labels for option in (False, True))
    assert len(np.unique(plain)) > 1
    assert (plain == compiled).mean() > 0.999


def test_without_a_compiler_compiling_stops_in_one_line(monkeypatch):
    def fail(*_, **__):
        def broken(_):
            raise RuntimeError("no compiler\nmore about it")

        return broken

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(ConfigError, match=r"torch\.compile does not work here: no compiler$"):
        Engine(a_bundle(), compiled=True)


TURNED = np.array([[-0.9, 0, 0, 30], [0, 1.1, 0, -20], [0, 0, 2.5, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("codes", ["RAS", "SAR", "PIL"])
def test_votes_and_soft_labels_lie_on_the_image_however_it_is_stored(codes):
    bundle = a_bundle(orientation="canonical", spacing=(2.0, 1.5, 1.0))
    engine, volume = Engine(bundle.with_inference(tta=True, precision="float32")), a_volume(affine=TURNED)
    turned = reoriented(volume, codes)
    plain, other = (engine.segment(one, Extras(votes=True, soft=True)) for one in (volume, turned))
    for name in ("tta_vote_count", "soft"):
        back = reoriented(volume_of(getattr(other, name), turned.geometry.affine), "".join(nib.aff2axcodes(TURNED)))
        assert np.array_equal(back.array, getattr(plain, name)), name
        assert len(np.unique(back.array)) > 2


def test_a_plan_is_that_of_the_axes_that_the_network_sees():
    engine, volume = (
        Engine(a_bundle(orientation="canonical", spacing=(2.0, 1.5, 1.0))),
        a_volume((11, 40, 23), TURNED),
    )
    assert engine.plan(reoriented(volume, "SAR").geometry, 0) == engine.plan(volume.geometry, 0)


def test_the_body_is_found_along_the_axes_that_the_network_sees():
    y, x = np.ogrid[:96, :96]
    array = np.full((24, 96, 96), -1000, np.int16)
    array[:, (y - 40) ** 2 + (x - 50) ** 2 < 18**2] = 20
    volume = volume_of(array, np.diag([-3.0, -3.0, 10.0, 1]))
    engine = Engine(a_bundle(orientation="canonical", spacing=(10.0, 3.0, 3.0)).with_inference(windows="body"))
    one, other = (engine.prepare(given).body for given in (volume, reoriented(volume, "SAR")))
    assert np.array_equal(one.mask, other.mask)
    assert one.cells == other.cells


def test_passes_are_counted_in_a_plan():
    hosts = [Engine(a_bundle().with_inference(tta=tta)).plan(a_volume().geometry, 0).host for tta in (False, True)]
    assert hosts[1] > hosts[0]


def test_an_engine_refuses_a_limit_below_its_weights():
    with pytest.raises(ConfigError, match="gpu-memory"):
        Engine(a_bundle().with_inference(precision="float32"), "cuda", Limits(gpu=1))


def test_each_voxel_counts_once_for_the_agreement(monkeypatch):
    made, kind = [], engine_module.TTAAgreement
    monkeypatch.setattr(engine_module, "TTAAgreement", lambda *given: made.append(kind(*given)) or made[-1])
    engine, volume = Engine(a_bundle().with_inference(tta=True)), a_volume((30, 20, 23))
    engine.segment(volume)
    assert made[0]._tables[0].sum() == volume.array.size


class OneSided:
    """Foreground everywhere in a window that is bright at the beginning of x."""

    def __call__(self, patches):
        lit = (patches[..., :2].amax((1, 2, 3)) > 0).float()[:, None, None, None] * torch.ones_like(patches)
        return torch.stack([0.4 + 0 * lit, 10 * lit, -1 + 0 * lit, -1 + 0 * lit], dim=-1)


def test_a_slab_is_probed_by_the_mean_of_all_passes():
    engine = Engine(a_bundle(mirror_axes=(2,)).with_inference(step=1, windows="center_first", tta=True))
    engine._network = OneSided()
    array = np.full((8, 48, 48), -100, np.int16)
    array[:, 16:32, 31] = 100  # at the end of the central window: seen by the mirrored pass alone
    assert engine.segment(volume_of(array, np.eye(4))).windows == 9


def test_foreground_does_not_leak_into_what_no_window_covers():
    array = np.full((48, 96, 96), 100, np.int16)
    array[32:, 32:64, 32:64] = -100
    labels = a_probed_engine(windows="center_first", spacing=2.0).segment(volume_of(array, np.eye(4))).labels
    assert labels[:31].all()
    assert not labels[32:].any()
