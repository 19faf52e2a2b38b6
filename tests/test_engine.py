import functools
import logging
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flare23_lib.errors import BundleError, ConfigError, ImageError
from flare23_lib.images import Geometry, Volume, header_for, read_volume, write_volume
from flare23_lib.inference.bundle import Bundle, InferenceDefaults, Model, ModelLabel
from flare23_lib.inference.engine import Engine, agreement_of, all_flips
from flare23_lib.inference.predict import find_cases, predict
from flare23_lib.networks import Architecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.resampling import Intensity

PATCH = (8, 16, 16)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for one another on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def a_bundle(values=(0, 1, 2, 3), **changes):
    options = {
        "name": "tiny",
        "network": Architecture.of(1, [4, 8, 8], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]),
        "patch_size": PATCH,
        "spacing": (1.0, 1.0, 1.0),
        "intensity": Intensity(-1000, 1000, 0, 1),
        "orientation": "stored",
        "labels": tuple(ModelLabel(f"label_{value}" if value else "background", value) for value in values),
        "mirror_axes": (0, 1, 2),
    }
    model = Model(**(options | changes))
    torch.manual_seed(0)
    network = STUNet(model.input_channels, len(values), **model.network.to_json())
    network.apply(network.initialize)
    return Bundle(model, network.state_dict())


def a_volume(shape=(11, 20, 23), affine=None, seed=0, dtype=np.float32):
    torch.manual_seed(seed)
    coarse = torch.randn(1, 1, *(max(2, size // 4) for size in shape))
    smooth = F.interpolate(coarse, size=shape, mode="trilinear")[0, 0]
    array = (3 * smooth + 0.1 * torch.randn(shape)).numpy().astype(dtype)
    return volume_of(array, np.eye(4) if affine is None else affine)


def volume_of(array, affine):
    header = header_for(array.shape, affine, array.dtype)
    spacing = tuple(float(zoom) for zoom in header.get_zooms()[::-1])
    return Volume(array, Geometry(tuple(array.shape), affine, spacing), header)


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


@pytest.mark.parametrize("mirroring", [False, True])
def test_labels_are_those_of_nnunets_own_predictor(mirroring):
    bundle, volume = a_bundle(), a_volume((19, 33, 37))
    labels = Engine(bundle, step=0.5, tta=mirroring).segment(volume).labels
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
    labels = Engine(bundle, step=0.5, tta=mirroring).segment(volume).labels
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
    engine = Engine(a_bundle(orientation="canonical", spacing=(2.0, 1.5, 1.0)), tta=False)
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


def test_labels_are_made_at_the_images_resolution():
    engine = Engine(a_bundle(spacing=(2.0, 2.0, 2.0)))
    volume = a_volume((13, 41, 37))
    result = engine.segment(volume)
    image, shape = engine._prepare(volume, SimpleNamespace(forward=lambda a: a, spacing=lambda s: s))
    assert image.shape == (6, 20, 18)
    assert shape == result.labels.shape == (13, 41, 37)
    with torch.inference_mode():
        logits, _ = engine._infer(image)
    full = F.interpolate(logits[None], size=shape, mode="trilinear", align_corners=False)[0]
    assert (result.labels == full.argmax(dim=0).numpy()).mean() > 0.9999


@pytest.mark.parametrize("shape", [(3, 20, 20), (8, 5, 30), (1, 1, 1), (7, 15, 15)])
def test_an_image_smaller_than_the_patch_is_segmented_whole(shape):
    assert Engine(a_bundle(), tta=True).segment(a_volume(shape)).labels.shape == shape


def test_an_excluded_class_does_not_win_in_the_alternative():
    engine = Engine(a_bundle(values=(0, 20, 3, 7)))
    plain = engine.segment(a_volume())
    result = engine.segment(a_volume(), exclude={20, 99})
    assert plain.alternative is None
    assert np.array_equal(result.labels, plain.labels)
    assert (result.labels == 20).any()
    assert not (result.alternative == 20).any()
    untouched = result.labels != 20
    assert np.array_equal(result.alternative[untouched], result.labels[untouched])


def test_excluding_only_what_the_model_does_not_know_changes_nothing():
    result = Engine(a_bundle()).segment(a_volume(), exclude={99})
    assert np.array_equal(result.alternative, result.labels)


def test_excluding_everything_is_refused():
    with pytest.raises(ConfigError, match="every label"):
        Engine(a_bundle()).segment(a_volume(), exclude={0, 1, 2, 3})


def test_a_result_repeats_to_the_bit():
    engine = Engine(a_bundle(), tta=True)
    first, second = engine.segment(a_volume()), engine.segment(a_volume())
    assert np.array_equal(first.labels, second.labels)
    assert first.agreement == second.agreement


def test_the_batch_size_does_not_matter():
    one, three = (Engine(a_bundle(), batch_size=size).segment(a_volume()).labels for size in (1, 3))
    assert (one == three).mean() >= 0.9999


def test_bfloat16_gives_nearly_the_same_labels():
    full, half = (
        Engine(a_bundle(), precision=precision).segment(a_volume()).labels for precision in ("float32", "bfloat16")
    )
    assert (full == half).mean() > 0.9


def test_the_models_defaults_hold_unless_others_are_asked_for():
    defaults = InferenceDefaults(step=0.8, tta=True, precision="bfloat16")
    bundle = a_bundle(inference=defaults)
    engine = Engine(bundle, precision=None)
    assert (engine.step, engine.tta, engine.precision) == (0.8, True, "bfloat16")
    engine = Engine(bundle, step=0.5, tta=False)
    assert (engine.step, engine.tta, engine.precision) == (0.5, False, "float32")


def test_every_phase_is_timed():
    timings = Engine(a_bundle()).segment(a_volume()).timings
    assert set(timings) == {"prepare", "infer", "upsample"}
    assert all(seconds >= 0 for seconds in timings.values())


def test_mirroring_takes_every_combination_of_axes_once():
    assert all_flips(()) == [()]
    assert all_flips((0, 2)) == [(), (0,), (2,), (0, 2)]
    assert len(set(all_flips((0, 1, 2)))) == 8


def test_agreement_is_the_mean_dice_of_the_passes_that_count():
    mean = torch.tensor([0, 1, 1, 2])
    passes = [torch.tensor([0, 1, 1, 2], dtype=torch.uint8), torch.tensor([0, 1, 3, 2], dtype=torch.uint8)]
    scores = agreement_of(passes, mean, 5)
    assert scores == pytest.approx([1, (1 + 2 / 3) / 2, 1, 0, None])


def test_agreement_is_given_by_label_name_and_only_with_mirroring():
    assert Engine(a_bundle(), tta=False).segment(a_volume()).agreement == {}
    agreement = Engine(a_bundle(values=(0, 20, 3, 7)), tta=True).segment(a_volume()).agreement
    assert list(agreement) == ["label_20", "label_3", "label_7"]
    assert all(score is None or 0 <= score <= 1 for score in agreement.values())
    assert any(score for score in agreement.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_volume_that_is_not_finite_is_refused(value):
    volume = a_volume()
    volume.array[0, 0, 0] = value
    with pytest.raises(ImageError, match="finite"):
        Engine(a_bundle()).segment(volume)


def test_stored_integers_are_read_like_floats():
    volume = a_volume(dtype=np.int16)
    other = volume_of(volume.array.astype(">f8"), np.eye(4))
    engine = Engine(a_bundle())
    assert np.array_equal(engine.segment(volume).labels, engine.segment(other).labels)


@pytest.mark.parametrize("options", [{"step": 0}, {"step": 1.5}, {"precision": "int8"}, {"batch_size": 0}])
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(ConfigError):
        Engine(a_bundle(), **options)


def test_a_model_of_several_channels_is_refused():
    with pytest.raises(BundleError, match="2 channels"):
        Engine(a_bundle(input_channels=2))


ODD_AFFINE = np.array(
    [[-0.7123456, 0.0001, 0, 123.456], [0, 0.7123, 0.0002, -7.1], [0, 0, 2.50001, 3.3], [0, 0, 0, 1]]
)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for number in (1, 2):
        volume = a_volume((6, 10, 12), ODD_AFFINE, seed=number, dtype=np.int16)
        volume.header["descrip"] = b"scanner"
        write_volume(folder / f"case_{number}_0000.nii.gz", volume.array, volume.header)
    return folder


def fast(bundle=None):
    return bundle or a_bundle(spacing=(2.5, 1.0, 1.0))


def test_a_folder_is_segmented_under_the_names_of_its_cases(images, tmp_path):
    (images / "notes.txt").write_text("no image")
    (images / ".partial-x.nii.gz").write_bytes(b"")
    assert predict(images, tmp_path / "labels", fast()) == []
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == ["case_1.nii.gz", "case_2.nii.gz"]
    labels = read_volume(tmp_path / "labels" / "case_1.nii.gz")
    volume = read_volume(images / "case_1_0000.nii.gz")
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, Engine(fast()).segment(volume).labels)


def test_the_output_keeps_the_geometry_to_the_last_bit(images, tmp_path):
    predict(images, tmp_path / "labels", fast())
    given = read_volume(images / "case_1_0000.nii.gz").header
    made = read_volume(tmp_path / "labels" / "case_1.nii.gz").header
    fields = ["dim", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"]
    fields += ["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units", "descrip"]
    for name in fields:
        assert given[name].tobytes() == made[name].tobytes(), name


def test_a_single_file_may_be_given_a_folder_or_a_name(images, tmp_path):
    image = images / "case_2_0000.nii.gz"
    assert predict(image, tmp_path / "labels", fast()) == []
    assert predict(image, tmp_path / "mine.nii", fast()) == []
    folder, name = (read_volume(tmp_path / p).array for p in ("labels/case_2.nii.gz", "mine.nii"))
    assert np.array_equal(folder, name)


def test_a_broken_case_is_named_in_one_line_and_the_others_are_done(images, tmp_path, caplog):
    broken = images / "case_1_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-20])
    with caplog.at_level(logging.INFO):
        faults = predict(images, tmp_path / "labels", fast())
    assert [(fault.case, fault.path) for fault in faults] == [("case_1", broken)]
    assert faults[0].message.startswith(f"{broken}: ")
    assert "\n" not in faults[0].message
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"1 of 2: {faults[0].message}"]
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["case_2.nii.gz"]


def test_a_case_with_nan_is_a_fault_that_names_the_file(tmp_path):
    volume = a_volume((6, 10, 12))
    volume.array[0, 0, 0] = np.nan
    write_volume(tmp_path / "x_0000.nii.gz", volume.array, volume.header)
    (fault,) = predict(tmp_path / "x_0000.nii.gz", tmp_path / "labels", fast())
    assert fault.message.startswith(f"{tmp_path / 'x_0000.nii.gz'}: ")
    assert "finite" in fault.message


def test_what_is_there_and_whole_is_not_made_again(images, tmp_path):
    output = tmp_path / "labels"
    predict(images, output, fast())
    whole, cut = output / "case_1.nii.gz", output / "case_2.nii.gz"
    content = cut.read_bytes()
    cut.write_bytes(content[:-10])
    before = whole.stat().st_ino
    assert predict(images, output, fast()) == []
    assert whole.stat().st_ino == before
    assert cut.read_bytes() == content
    predict(images, output, fast(), overwrite=True)
    assert whole.stat().st_ino != before


def test_inputs_that_are_not_there_are_refused_in_one_line(tmp_path):
    with pytest.raises(ImageError, match="there is no such file or folder"):
        predict(tmp_path / "nothing", tmp_path / "labels", fast())
    with pytest.raises(ImageError, match="holds no"):
        predict(tmp_path, tmp_path / "labels", fast())
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ImageError, match="is not named"):
        predict(tmp_path / "x.txt", tmp_path / "labels", fast())
    assert not (tmp_path / "labels").exists()


def test_labels_never_replace_images(images, tmp_path):
    (images / "case_1_0000.nii.gz").rename(images / "case_1.nii.gz")
    before = (images / "case_1.nii.gz").read_bytes()
    with pytest.raises(ImageError, match="would replace it"):
        predict(images, images, fast(), overwrite=True)
    with pytest.raises(ImageError, match="must be a folder"):
        predict(images, tmp_path / "x.nii.gz", fast())
    assert (images / "case_1.nii.gz").read_bytes() == before


def test_two_images_of_one_name_are_refused(images, tmp_path):
    (images / "case_1.nii").write_bytes(b"")
    with pytest.raises(ImageError, match=r"same case_1\.nii\.gz"):
        find_cases(images, tmp_path / "labels")
