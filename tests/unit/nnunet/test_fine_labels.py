"""Labels that are finer than the network's grid: stored, augmented like the image, and learned from."""

import pickle
from pathlib import Path
from unittest.mock import patch

import blosc2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from hypothesis import given
from hypothesis import strategies as st
from label_sets import SEEDS, annotated_in_two
from places import RECIPE
from trainings import MODEL

from flare23_lib.cache.results import Results, read_shards
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case
from flare23_lib.errors import ConfigError
from flare23_lib.nnunet.fine_labels import SpatialLabelTransform, refined, unpacked, with_labels
from flare23_lib.nnunet.fine_losses import FineLabelLoss, label_shares, sums_of_slabs
from flare23_lib.nnunet.losses import LabelSetLoss, admissible_sets, loss_of_sums, sums_of_labels, sums_of_shares
from flare23_lib.preprocessing.preprocess import packed
from flare23_lib.preprocessing.preprocess_cases import TrainingCase, image_entry, label_entry

CLASSES = 4
FACTORS = st.tuples(*[st.integers(1, 3)] * 3)
ANNOTATED = annotated_in_two(CLASSES)
SHAPE = (3, 4, 5)


def batch(seed, annotated, factor):
    """Logits, finer labels, and the cases' admissible sets."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((2, CLASSES, *SHAPE), generator=random, dtype=torch.float64)
    fine = [size * one for size, one in zip(SHAPE, factor, strict=True)]
    labels = torch.randint(0, CLASSES + 1, (2, 1, *fine), generator=random)
    for case, found in enumerate(annotated):
        for label in set(range(1, CLASSES)) - found:
            labels[case][labels[case] == label] = 0
    return logits, labels, torch.stack([admissible_sets(found, CLASSES, {3: [1]}, 0.1) for found in annotated])


# ---------------------------------------------------------------- losses


@given(SEEDS, ANNOTATED)
def test_shares_of_one_label_are_that_label(seed, annotated):
    logits, labels, sets = batch(seed, annotated, (1, 1, 1))
    shares = label_shares(labels, SHAPE, CLASSES + 1)
    torch.testing.assert_close(sums_of_shares(logits, shares, sets), sums_of_labels(logits, labels, sets))


def test_the_loss_of_shares_is_smallest_where_the_probabilities_equal_them():
    _, labels, sets = batch(0, [{1, 2, 3}] * 2, (1, 2, 2))
    shares = label_shares(labels % CLASSES, SHAPE, CLASSES + 1)
    shares = 0.9 * shares
    shares[:, :CLASSES] += 0.1 / CLASSES

    def loss(logits):
        return float(loss_of_sums(sums_of_shares(logits, shares, sets), sets, several=False))

    best = shares[:, :CLASSES].log().double()
    entropy = -(shares[:, :CLASSES] * best).sum(1).mean()
    assert loss(best) == pytest.approx(float(entropy) - 1, abs=1e-6), "a Dice of 1"
    random = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert loss(best + 0.1 * torch.randn(best.shape, generator=random)) > loss(best)


@pytest.mark.parametrize("slab_bytes", [pytest.param(1, marks=pytest.mark.slow), 10**9])
@given(seed=SEEDS, annotated=ANNOTATED, factor=FACTORS)
def test_native_targets_are_those_of_logits_that_are_interpolated_in_full(slab_bytes, seed, annotated, factor):
    logits, labels, sets = batch(seed, annotated, factor)
    one, other = (logits.clone().requires_grad_() for _ in range(2))
    full = F.interpolate(other, size=labels.shape[2:], mode="trilinear", align_corners=False)
    expected = LabelSetLoss()(full, labels, sets)
    with patch("flare23_lib.nnunet.fine_losses.SLAB_BYTES", slab_bytes):
        loss = FineLabelLoss([1], native=True)([one], labels, sets)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=0)


@patch("flare23_lib.nnunet.fine_losses.SLAB_BYTES", 1)
def test_native_targets_keep_no_interpolated_logits():
    logits, labels, sets = batch(0, [{1, 2, 3}] * 2, (2, 3, 3))
    logits.requires_grad_()
    kept = []

    def pack(tensor):
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sums_of_labels(F.interpolate(logits, size=labels.shape[2:], mode="trilinear"), labels, sets)
    assert max(kept) == 18 * logits.nbytes
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sums_of_slabs(logits, labels, sets)
    assert max(kept, default=0) <= logits.nbytes


@pytest.mark.parametrize("native", [False, True])
@given(seed=SEEDS, annotated=ANNOTATED)
def test_each_scale_has_its_weight_and_the_labels_of_its_voxels(native, seed, annotated):
    logits, labels, sets = batch(seed, annotated, (2, 2, 2))
    logits = F.interpolate(logits, size=(4, 4, 6))
    labels = F.interpolate(labels.double(), size=(4, 8, 12)).long()
    scales = [logits, logits[:, :, ::2, ::2, ::2], logits[:, :, :1, :1, :1]]
    shares = label_shares(labels, (2, 2, 3), CLASSES + 1)
    coarse = loss_of_sums(sums_of_shares(scales[1], shares, sets), sets, several=False)
    first = FineLabelLoss([1], native)(scales[:1], labels, sets)
    loss = FineLabelLoss([0.7, 0.3, 0], native)(scales, labels, sets)
    assert float(loss) == pytest.approx(0.7 * float(first) + 0.3 * float(coarse), abs=1e-6)


# ---------------------------------------------------------------- patches


@given(FACTORS, SEEDS)
def test_packed_labels_unpack_to_themselves(factor, seed):
    shape = [2 * one for one in factor]
    labels = np.random.default_rng(seed).integers(0, 9, shape)
    channels = packed(labels, factor)
    assert channels.shape == (np.prod(factor), 2, 2, 2)
    np.testing.assert_array_equal(channels[:, 0, 0, 0], labels[: factor[0], : factor[1], : factor[2]].ravel())
    np.testing.assert_array_equal(unpacked(torch.from_numpy(channels), factor)[0].numpy(), labels)


@given(FACTORS, SEEDS)
def test_a_refined_grid_is_linear_beyond_the_outermost_voxels_too(factor, seed):
    random = np.random.default_rng(seed)
    turn, shift = torch.from_numpy(random.normal(size=(3, 3))), torch.from_numpy(random.normal(size=3))

    def places(shape):
        axes = [(torch.arange(size, dtype=torch.float64) + 0.5) / size for size in shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ turn + shift

    shape = (2, 3, 4)
    fine = [size * one for size, one in zip(shape, factor, strict=True)]
    torch.testing.assert_close(refined(places(shape).float(), factor), places(fine).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("turned", [False, True])
def test_finer_labels_move_with_the_image(turned):
    axes = torch.meshgrid(*(torch.arange(16.0) for _ in range(3)), indexing="ij")
    ball = sum((axis - 7.5 - place) ** 2 for axis, place in zip(axes, (1, -2, 2), strict=True)) < 16
    factor = (1, 2, 3)
    fine = ball
    for axis, one in enumerate(factor):
        fine = fine.repeat_interleave(one, axis)
    transform = SpatialTransform(
        (8, 10, 12), 0, False, p_rotation=float(turned), rotation=(0.6, 0.6), p_scaling=float(turned),
        scaling=(1.2, 1.2), padding_value_seg=-1, border_mode_seg="constant",
    )  # fmt: skip
    transform = SpatialLabelTransform(transform, factor, soft=False)
    done = transform(image=ball.float()[None], segmentation=fine[None].to(torch.int16))
    assert done["segmentation"].shape == (1, 8, 20, 36)
    shares = F.avg_pool3d((done["segmentation"] == 1).float()[None], factor)[0]
    assert (shares - done["image"]).abs().max() < (0.6 if turned else 1e-6)
    assert (shares - done["image"]).abs().mean() < 0.03
    assert 0.1 < float(shares.mean()) < 0.9


def test_patches_that_are_turned_in_the_plane_alone_have_finer_labels_too():
    transform = SpatialTransform((24, 24), 0, False, p_rotation=1, rotation=(0.5, 0.5))
    chain = ComposeTransforms([Convert3DTo2DTransform(), transform, Convert2DTo3DTransform()])
    done = with_labels(chain, (2, 1, 3), soft=False)(
        image=torch.rand(1, 8, 24, 24), segmentation=torch.ones((6, 8, 24, 24), dtype=torch.int16)
    )
    assert done["image"].shape == (1, 8, 24, 24)
    assert done["segmentation"].shape == (1, 16, 24, 72)


# ---------------------------------------------------------------- trainings


PREPARED_FOR = {"targets": "area", "loss": "label_sets"}


def test_a_case_has_finer_labels_and_places_on_the_images_grid(prepared):
    row = read_shards(prepared, "preprocessed", MODEL, 1)[0]
    image, labels = (blosc2.open(str(prepared.root / row[kind]))[:] for kind in ("image", "label"))
    assert labels.shape == (4, *image.shape[1:])
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    path = (prepared.root / row["label"]).with_suffix(".pkl")
    for label, places in pickle.loads(path.read_bytes())["class_locations"].items():
        if isinstance(label, int) and len(places):
            assert (labels[(slice(None), *places[:, 1:].T)] == label).any(0).all()


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("targets", ["area", "native"])
@pytest.mark.parametrize("loss", ["nnunet", "label_sets"])
def test_a_training_learns_from_finer_labels(made, targets, loss, elastic):
    trainer = made(targets=targets, loss=loss, elastic_deformation=elastic, oversample_foreground=1)
    assert bool(trainer.sets["case1"][0, 3]) == (loss == "label_sets")
    trainer.on_train_start()
    losses = []
    for _ in range(8):
        patches = next(trainer.dataloader_train)
        assert patches["data"].shape[2:] == (8, 16, 16)
        assert patches["target"].shape[2:] == (8, 32, 32)
        shares = F.avg_pool3d((patches["target"] > 0).float(), (1, 2, 2))
        inside, outside = (patches["data"][place].mean() for place in (shares == 1, shares == 0))
        assert inside > outside, "what is labeled is brighter"
        losses.append(float(trainer.train_step(patches)))
    assert np.isfinite(losses).all()
    value, voxels = trainer.validation_step(next(trainer.dataloader_val))
    assert np.isfinite(value)
    assert voxels[0].sum() + voxels[2].sum() > 0


# ---------------------------------------------------------------- configuration


def test_finer_labels_are_other_files_of_the_same_images():
    case = Case("a", "a.nii.gz", "l.nii.gz", "training", {1: 5}, "all_organs", (4, 5, 6), (5.0, 2.0, 2.0))
    one, other = (
        Config.load([RECIPE], {"model_defaults": {"training": training}}).preprocessing_settings("organ_teacher")
        for training in ({}, {"targets": "native"})
    )
    results, original = Results(Path("results")), TrainingCase(case, Path("l.nii.gz"), "l")
    assert label_entry(results, one, original).folder != label_entry(results, other, original).folder
    assert image_entry(results, one, case) == image_entry(results, other, case)


@pytest.mark.parametrize(
    ("training", "message"),
    [({"target_factor": [1, 3, 3]}, "no effect"), ({"targets": "area", "target_factor": [1, 1, 1]}, "not finer")],
)
def test_a_factor_belongs_to_finer_labels(training, message):
    with pytest.raises(ConfigError, match=message):
        Config.load([RECIPE], {"model_defaults": {"training": training}})
