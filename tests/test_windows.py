import pytest
import torch
import torch.nn.functional as F
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from flare23_lib.inference.upsampling import labels_from_logits
from flare23_lib.inference.windows import Grid, importance_map, pad_to_patch, window_slices, window_starts

sizes = st.integers(1, 200)


def test_an_image_of_the_patch_size_has_one_window():
    assert window_starts((4, 8, 8), (4, 8, 8), 0.5) == [[0], [0], [0]]


def test_windows_are_spread_evenly():
    assert window_starts((110, 64, 65), (64, 64, 64), 0.5) == [[0, 23, 46], [0], [0, 1]]


@given(st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes), st.floats(0.1, 1))
@settings(max_examples=200, deadline=None)
def test_windows_start_where_nnunet_starts_them(patch, more, step):
    shape = tuple(size + rest - 1 for size, rest in zip(patch, more, strict=True))
    assert window_starts(shape, patch, step) == compute_steps_for_sliding_window(shape, patch, step)


def test_an_image_smaller_than_the_patch_has_no_windows():
    with pytest.raises(ValueError, match="smaller than the patch"):
        window_starts((3, 8, 8), (4, 8, 8), 0.5)


@pytest.mark.parametrize("step", [0, -1, 1.5])
def test_a_step_that_leaves_gaps_is_refused(step):
    with pytest.raises(ValueError, match="step"):
        window_starts((8, 8, 8), (4, 4, 4), step)


def test_windows_come_with_x_running_fastest():
    boxes = window_slices([[0], [0, 2], [0, 3]], (1, 2, 3))
    assert boxes[1] == (slice(0, 1), slice(0, 2), slice(3, 6))
    assert boxes[2] == (slice(0, 1), slice(2, 4), slice(0, 3))


@pytest.mark.parametrize("patch", [(8, 12, 16), (5, 7, 9), (1, 2, 3), (48, 64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_voxel_weighs_what_it_weighs_in_nnunet(patch, dtype):
    theirs = compute_gaussian(patch, dtype=dtype, device=torch.device("cpu"))
    ours = importance_map(patch, dtype=dtype)
    assert ours.min() > 0
    assert ours.max() == 1
    assert torch.allclose(ours, theirs, rtol=2e-3 if dtype == torch.float16 else 1e-5, atol=6e-8)


def test_padding_puts_the_image_in_the_middle():
    padded, box = pad_to_patch(torch.ones(2, 5, 9), (4, 8, 8))
    assert padded.shape == (4, 8, 9)
    assert box == (slice(1, 3), slice(1, 6), slice(0, 9))
    assert padded[box].all()
    assert padded.sum() == 2 * 5 * 9


@pytest.mark.parametrize("shape", [(3, 9, 4), (8, 8, 8), (1, 1, 1), (7, 20, 2)])
def test_padding_is_that_of_nnunet(shape):
    image = torch.rand(shape)
    theirs, slicer = pad_nd_image(image, (8, 8, 8), "constant", {"value": 0}, True, None)
    ours, box = pad_to_patch(image, (8, 8, 8))
    assert torch.equal(ours, theirs)
    assert torch.equal(ours[box], theirs[slicer])


def test_a_grid_covers_every_voxel():
    grid = Grid.over((9, 10, 11), (4, 6, 8), 0.8)
    assert len(grid.windows) == 3 * 2 * 2
    assert grid.coverage.min() > 0
    total = sum(float(grid.importance.sum()) for _ in grid.windows)
    assert float(grid.coverage.sum()) == pytest.approx(total, rel=1e-5)


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
@pytest.mark.parametrize("slab_bytes", [0, 2000, 2**28])
def test_labels_made_slab_by_slab_equal_full_interpolation(source, target, slab_bytes):
    torch.manual_seed(0)
    logits = torch.randn(4, *source)
    full = F.interpolate(logits[None], size=target, mode="trilinear", align_corners=False)[0]
    labels = labels_from_logits(logits, target, slab_bytes=slab_bytes)
    assert labels.shape == target
    assert labels.dtype == torch.uint8
    best = full.amax(dim=0)
    chosen = full.gather(0, labels[None].long())[0]
    assert (best - chosen).max() < 1e-5
    top = full.topk(2, dim=0).values
    clear = top[0] - top[1] > 1e-5
    assert torch.equal(labels[clear].long(), full.argmax(dim=0)[clear])
    assert clear.float().mean() > 0.99


@pytest.mark.parametrize("slab_bytes", [0, 2**28])
def test_an_excluded_class_does_not_win(slab_bytes):
    torch.manual_seed(0)
    logits = torch.randn(4, 5, 6, 7)
    before = logits.clone()
    target = (9, 9, 9)
    without = labels_from_logits(logits, target, excluded={1, 3}, slab_bytes=slab_bytes)
    assert set(without.unique().tolist()) == {0, 2}
    assert torch.equal(without, labels_from_logits(logits[[0, 2]], target) * 2)
    assert torch.equal(logits, before)


def test_excluding_a_class_leaves_the_logits_alone_where_no_resampling_is_needed():
    logits = torch.randn(3, 4, 4, 4)
    before = logits.clone()
    labels_from_logits(logits, (4, 4, 4), excluded={0})
    assert torch.equal(logits, before)


def test_excluding_every_class_is_refused():
    with pytest.raises(ValueError, match="every class"):
        labels_from_logits(torch.zeros(2, 1, 1, 1), (1, 1, 1), excluded={0, 1})


def test_the_lowest_class_wins_a_tie():
    assert not labels_from_logits(torch.zeros(3, 2, 2, 2), (4, 4, 4)).any()
