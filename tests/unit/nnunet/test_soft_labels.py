"""Labels that are soft where a teacher hesitated: stored, augmented, and learned from."""

from unittest.mock import patch

import blosc2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from hypothesis import given
from hypothesis import strategies as st
from label_sets import SEEDS, annotated_in_two, assert_gradients_are_finite_differences
from trainings import AFFINE, MODEL, SHAPE, prepare, settings, trainer_of

from flare23_lib.cache.results import read_shards
from flare23_lib.io.nifti import header_for, write_volume
from flare23_lib.labels import pack_soft, unpack_soft
from flare23_lib.nnunet.fine_labels import with_labels
from flare23_lib.nnunet.fine_losses import FineLabelLoss, label_shares
from flare23_lib.nnunet.losses import LabelSetLoss, admissible_sets, loss_of_sums, soft_shares, sums_of_shares
from flare23_lib.preprocessing.preprocess import (
    TrainingGrid,
    packed,
    preprocess_labels,
)

CLASSES = 5
IGNORE = CLASSES
SIZE = (3, 4, 5)
ANNOTATED = annotated_in_two(CLASSES)


def batch(seed, annotated=(range(1, CLASSES),) * 2):
    """Logits, labels with two classes in a part of the voxels, and the cases' admissible sets."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((2, CLASSES, *SIZE), generator=random, dtype=torch.float64)
    labels = torch.randint(0, CLASSES + 1, (2, 1, *SIZE), generator=random)
    pair = torch.randint(0, CLASSES, (2, 2, *SIZE), generator=random)
    share = torch.randint(128, 256, (2, 1, *SIZE), generator=random)
    share[torch.rand(share.shape, generator=random) < 0.5] = 0
    sets = torch.stack([admissible_sets(found, CLASSES) for found in annotated])
    return logits, torch.cat([labels, pair, share], 1).short(), sets


# ---------------------------------------------------------------- loss


@given(SEEDS, ANNOTATED)
def test_shares_of_one_and_hard_labels_give_the_ordinary_loss(seed, annotated):
    logits, target, sets = batch(seed, annotated)
    labels = target[:, :1]
    ordinary = float(LabelSetLoss()(logits, labels, sets))
    hard, certain = target.clone(), target.clone()
    hard[:, 3:] = 0
    certain[:, 1:2], certain[:, 3:] = labels % CLASSES, 255
    for one in (hard, certain):
        assert float(LabelSetLoss()(logits, one, sets)) == pytest.approx(ordinary, abs=1e-6)


@given(SEEDS, ANNOTATED)
def test_gradients_are_those_of_finite_differences(seed, annotated):
    assert_gradients_are_finite_differences(*batch(seed, annotated), seed, tolerance=1e-6)


def two_classes(share):
    """Target of one voxel that is of the class 1 with a share, else of the class 2."""
    return torch.tensor([1, 1, 2, share]).view(1, 4, 1, 1, 1).short()


@given(st.lists(st.floats(-5, 5), min_size=CLASSES, max_size=CLASSES), st.integers(1, 254))
def test_the_two_classes_are_interchangeable(values, share):
    sets = admissible_sets(range(1, CLASSES), CLASSES)[None]
    logits = torch.tensor(values, dtype=torch.float64).view(1, CLASSES, 1, 1, 1)
    swapped = logits[:, [0, 2, 1, *range(3, CLASSES)]]
    one, other = two_classes(share), two_classes(255 - share)
    loss = float(LabelSetLoss()(logits, one, sets))
    assert float(LabelSetLoss()(swapped, other, sets)) == pytest.approx(loss, abs=1e-6)
    other[:, 1:3] = other[:, 1:3].flip(1)
    assert float(LabelSetLoss()(logits, other, sets)) == pytest.approx(loss, abs=1e-6)


def test_shares_are_those_of_both_classes_and_ignored_voxels_stay_ignored():
    target = torch.cat([two_classes(share) for share in (0, 51, 255, 128)], dim=2)
    target[0, 0, 3] = IGNORE
    shares = soft_shares(target, CLASSES + 1)[0, :, :, 0, 0].T
    expected = [[0, 1, 0, 0, 0, 0], [0, 0.2, 0.8, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    torch.testing.assert_close(shares, torch.tensor(expected))
    logits, target, sets = batch(0)
    target[0, 0] = IGNORE
    logits.requires_grad_()
    LabelSetLoss()(logits, target, sets).backward()
    assert not logits.grad[0].any()
    assert logits.grad[1].any()


@given(SEEDS, ANNOTATED)
def test_finer_soft_labels_are_averaged_or_native(seed, annotated):
    logits, target, sets = batch(seed, annotated)
    target = F.interpolate(target.double(), size=[2 * size for size in SIZE]).short()
    target[:, 3, ::2] = 0  # voxels of a coarser one differ
    full = F.interpolate(logits, size=target.shape[2:], mode="trilinear", align_corners=False)
    for slab_bytes in (1, 10**9):
        with patch("flare23_lib.nnunet.fine_losses.SLAB_BYTES", slab_bytes):
            native = FineLabelLoss([1], native=True)([logits], target, sets)
        assert float(native) == pytest.approx(float(LabelSetLoss()(full, target, sets)), abs=1e-6)
    shares = label_shares(target, SIZE, CLASSES + 1)
    whole = soft_shares(target, CLASSES + 1)
    torch.testing.assert_close(shares[:, :, 0, 0, 0], whole[:, :, :2, :2, :2].mean((2, 3, 4)))
    average = FineLabelLoss([1], native=False)([logits], target, sets)
    assert float(average) == pytest.approx(float(loss_of_sums(sums_of_shares(logits, shares, sets), sets, False)))


# ---------------------------------------------------------------- patches


def spatial(size):
    """The spatial transform of nnU-Net's training, always turned."""
    return SpatialTransform(
        size, 0, False, p_rotation=1, rotation=(0.4, 0.4), p_scaling=1, scaling=(0.8, 0.8), padding_value_seg=-1,
        border_mode_seg="constant",
    )  # fmt: skip


@pytest.mark.parametrize("in_plane", [False, True])
def test_augmented_soft_labels_are_some_of_those_that_were_there(in_plane):
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**12, (12, 24, 24), generator=random)
    channels = torch.stack([codes % 5, codes % 16, codes // 16 % 16, codes // 16]).short()
    chain = (
        [Convert3DTo2DTransform(), spatial((24, 24)), Convert2DTo3DTransform()]
        if in_plane
        else [spatial((8, 16, 16))]
    )
    chain = with_labels(ComposeTransforms([*chain, DownsampleSegForDSTransform([1, 0.5])]), (1, 1, 1), soft=True)
    scales = chain(image=torch.rand(1, 12, 24, 24), segmentation=channels)["segmentation"]
    for found in scales:
        assert len(found) == 4
        inside = found[3] >= 0
        assert torch.equal(found[2][inside], found[3][inside] % 16), "of one voxel"
        assert len(found[3].unique()) > 100, "shares are not rounded"
        assert set(found[1:3].unique().tolist()) <= set(range(-1, 16))
    outside = scales[0][3] == -1
    assert 0 < outside.float().mean() < 0.5
    known = {tuple(pair) for pair in torch.stack([codes % 16, codes // 16], -1).view(-1, 2).tolist()}
    assert {tuple(pair) for pair in scales[0][[1, 3]].permute(1, 2, 3, 0)[~outside].tolist()} <= known


def test_labels_without_soft_channels_get_them_and_move_as_ever():
    labels = torch.zeros((1, 12, 24, 24), dtype=torch.int16)
    labels[:, 3:9, 5:15, 8:20] = 2
    image = torch.rand(1, 12, 24, 24)
    plain, soft = (
        transforms(image=image.clone(), segmentation=labels.clone())
        for transforms in (
            ComposeTransforms([spatial((8, 16, 16))]),
            with_labels(ComposeTransforms([spatial((8, 16, 16))]), (1, 1, 1), soft=True),
        )
    )
    assert torch.equal(plain["image"], soft["image"])
    assert torch.equal(plain["segmentation"][0], soft["segmentation"][0])
    assert soft["segmentation"][1:].max() == 0


def test_finer_soft_labels_move_with_finer_labels():
    factor, shape = (1, 2, 3), (8, 24, 36)
    place = np.indices(shape).sum(0)
    planes = [place % 5, place % 3, place // 3 % 4, place % 16]
    channels = torch.from_numpy(np.concatenate([packed(plane, factor) for plane in planes])).short()
    given = {"image": torch.rand(1, 8, 12, 12), "segmentation": channels}
    chain = ComposeTransforms([spatial((6, 8, 8))])
    found = with_labels(chain, factor, soft=True)(**given)["segmentation"]
    assert found.shape == (4, 6, 16, 24)
    inside = found[3] >= 0
    assert inside.float().mean() > 0.5
    known = {tuple(values) for values in np.stack(planes[1:], -1).reshape(-1, 3).tolist()}
    assert {tuple(values) for values in found[1:].permute(1, 2, 3, 0)[inside].tolist()} <= known, "of one voxel"
    assert len(found[3][inside].unique()) == 16
    plain = with_labels(ComposeTransforms([]), factor, soft=True)
    np.testing.assert_array_equal(plain(**given)["segmentation"].numpy(), planes)
    hard = plain(image=given["image"], segmentation=channels[:6])["segmentation"]
    np.testing.assert_array_equal(hard[0].numpy(), planes[0])
    assert not hard[1:].any()


# ---------------------------------------------------------------- preprocessing


def write_soft(folder, shape=SHAPE):
    """Write labels and soft labels: 1 in a half, 2 in the other, between them both."""
    labels = np.ones(shape, np.uint8)
    labels[:, :, shape[2] // 2 :] = 2
    share = np.zeros(shape, np.uint8)
    share[:, :, shape[2] // 2 - 2 : shape[2] // 2 + 2] = [200, 150, 150, 200]
    soft = np.where(share, pack_soft(labels, 3 - labels, share), 0)
    paths = [folder / f"c{end}" for end in (".nii.gz", ".soft.nii.gz")]
    for path, array in zip(paths, (labels, soft), strict=True):
        write_volume(path, array, header_for(shape, AFFINE, array.dtype))
    return paths, soft


@pytest.mark.parametrize("orientation", ["stored", "canonical"])
def test_soft_labels_lie_on_the_grid_of_the_labels(tmp_path, orientation):
    (labels, soft), codes = write_soft(tmp_path)
    target = tmp_path / "l.b2nd"
    for spacing, factor in (((3, 2, 2), 1), ((3, 2, 4), 2)):
        preprocess_labels(labels, target, TrainingGrid(spacing, orientation, (8, 16, 16)), [2, 1], soft=soft)
        made = blosc2.open(str(target))[:]
        assert made.shape == (4, *SHAPE[:2], SHAPE[2] // factor)
        row = made[:, 0, 0]
        middle = row[:, row[3] > 0]
        assert middle.shape[1] == 4 // factor
        np.testing.assert_array_equal(middle[0], middle[1], "the first class is the label here")
        np.testing.assert_array_equal(middle[2], 3 - middle[0])
        assert set(middle[3].tolist()) <= {150, 200}
    grid = TrainingGrid((3, 2, 4), orientation, (8, 16, 16), (1, 1, 2))
    preprocess_labels(labels, target, grid, [2, 1], soft=soft)
    finer = blosc2.open(str(target))[:]
    assert finer.shape == (8, *SHAPE[:2], SHAPE[2] // 2), "channels of a plane, plane by plane"
    preprocess_labels(labels, target, TrainingGrid((3, 2, 2), orientation, (8, 16, 16)), [2, 1], soft=soft)
    np.testing.assert_array_equal(
        with_labels(ComposeTransforms([]), (1, 1, 2), soft=True)(
            image=torch.zeros(1, *finer.shape[1:]), segmentation=torch.from_numpy(finer)
        )["segmentation"].numpy(),
        blosc2.open(str(target))[:],
    )
    first, second, share = unpack_soft(codes)
    assert pack_soft(first, second, share).tolist() == codes.tolist()


# ---------------------------------------------------------------- trainings


@pytest.mark.parametrize(
    ("loss", "targets"), [("nnunet", "hard"), ("label_sets", "hard"), ("nnunet", "native"), ("label_sets", "area")]
)
def test_a_training_learns_from_soft_labels_beside_hard_ones(tmp_path, loss, targets):
    prepared = prepare(tmp_path / "prepared", loss="label_sets", targets=targets)
    factor = (1, 1, 1) if targets == "hard" else (1, 2, 2)
    rows = read_shards(prepared, "preprocessed", MODEL, 1)
    (labels, soft), _ = write_soft(tmp_path)
    for row in rows[:2]:
        grid = TrainingGrid((3, 2, 2), "stored", (8, 16, 16), factor)
        preprocess_labels(labels, prepared.root / row["label"], grid, [1, 2, 3, 4], soft=soft)
    chosen = settings(loss=loss, targets=targets, oversample_foreground=1).model_copy(update={"soft": True})
    trainer = trainer_of(prepared, tmp_path, chosen, rows)
    trainer.on_train_start()
    losses, seen = [], set()
    for _ in range(8):
        patches = next(trainer.dataloader_train)
        scales = patches["target"] if targets == "hard" else [patches["target"]]
        assert [scale.shape[1] for scale in scales] == [4] * len(scales)
        assert list(scales[0].shape[2:]) == [8, 16 * factor[1], 16 * factor[2]]
        seen |= set(scales[0][:, 3].unique().tolist())
        losses.append(float(trainer.train_step(patches)))
    assert np.isfinite(losses).all()
    assert seen == {0, 150, 200}
    value, voxels = trainer.validation_step(next(trainer.dataloader_val))
    assert np.isfinite(value)
    assert voxels[0].sum() + voxels[2].sum() > 0
