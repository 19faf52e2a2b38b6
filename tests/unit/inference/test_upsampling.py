import pytest
import torch
import torch.nn.functional as F

from flare23_lib.inference import upsampling
from flare23_lib.inference.upsampling import argmax_classes, interpolated_labels
from flare23_lib.preprocessing.resampling import Axis


def labels_from_logits(logits, shape):
    axes = tuple(Axis.between(*sizes) for sizes in zip(logits.shape[:3], shape, strict=True))
    return interpolated_labels(logits, argmax_classes(logits), axes, torch.ones(logits.shape[:3]))


def channels_last(logits):
    """(classes, z, y, x) as the engine holds them, (z, y, x, classes)."""
    return logits.permute(1, 2, 3, 0).contiguous()


SHAPES = [
    ((5, 6, 7), (11, 13, 15)),
    ((9, 9, 9), (4, 5, 3)),
    ((6, 6, 6), (6, 12, 6)),
    ((1, 3, 1), (4, 1, 5)),
    ((7, 8, 9), (7, 8, 9)),
    ((10, 4, 6), (3, 17, 6)),
    ((11, 5, 5), (29, 9, 10)),
]


@pytest.mark.parametrize(("source", "target"), SHAPES)
@pytest.mark.parametrize("chunk", [1, 100, 2**18])
def test_labels_equal_those_of_full_interpolation(source, target, chunk, monkeypatch):
    monkeypatch.setattr(upsampling, "CHUNK_VOXELS", chunk)
    torch.manual_seed(0)
    logits = torch.randn(4, *source)
    full = F.interpolate(logits[None], size=target, mode="trilinear", align_corners=False)[0]
    labels = labels_from_logits(channels_last(logits), target)
    assert labels.shape == target
    assert labels.dtype == torch.uint8
    best = full.amax(dim=0)
    chosen = full.gather(0, labels[None].long())[0]
    assert (best - chosen).max() < 1e-5
    top = full.topk(2, dim=0).values
    clear = top[0] - top[1] > 1e-5
    assert torch.equal(labels[clear].long(), full.argmax(dim=0)[clear])
    assert clear.float().mean() > 0.99


def test_smooth_logits_give_no_other_label_than_full_interpolation():
    torch.manual_seed(1)
    coarse = torch.randn(1, 6, 4, 5, 6)
    for source, target in (((13, 17, 19), (31, 29, 40)), ((25, 31, 40), (13, 40, 17))):
        logits = 8 * F.interpolate(coarse, size=source, mode="trilinear")[0]
        full = F.interpolate(logits[None], size=target, mode="trilinear")[0]
        labels = labels_from_logits(channels_last(logits), target)
        # Where the two best are as good as equal, rounding decides.
        first, second = full.topk(2, dim=0).values
        assert not ((labels != full.argmax(dim=0)) & (first - second > 1e-5)).any()
        assert len(labels.unique()) > 3


def test_a_class_that_is_second_at_every_corner_may_win_between_them():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0], [3.0, 3.0]])  # classes by two voxels
    labels = labels_from_logits(logits.T.reshape(1, 1, 2, 3).contiguous(), (1, 1, 6))
    assert labels.flatten().tolist() == [0, 0, 2, 2, 1, 1]


def test_many_blocks_of_output_are_searched(monkeypatch):
    torch.manual_seed(0)
    logits = channels_last(torch.randn(4, 5, 6, 7))
    whole = labels_from_logits(logits, (11, 13, 15))
    monkeypatch.setattr(upsampling, "BLOCK_VOXELS", 400)
    assert torch.equal(labels_from_logits(logits, (11, 13, 15)), whole)


def test_the_lowest_class_wins_a_tie():
    assert not labels_from_logits(torch.zeros(2, 2, 2, 3), (4, 4, 4)).any()
    assert argmax_classes(torch.tensor([1.0, 5, 5])).item() == 1
