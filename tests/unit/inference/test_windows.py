import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from flare23_lib.inference.windows import all_windows, importance_map, pad_to_patch, window_slices, window_starts

sizes = st.integers(1, 200)


@given(st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes), st.floats(0.1, 1))
def test_windows_start_where_nnunet_starts_them(patch, more, step):
    shape = tuple(size + rest - 1 for size, rest in zip(patch, more, strict=True))
    assert window_starts(shape, patch, step) == compute_steps_for_sliding_window(shape, patch, step)


def test_windows_come_with_x_running_fastest():
    boxes = window_slices([[0], [0, 2], [0, 3]], (1, 2, 3))
    assert boxes[1] == (slice(0, 1), slice(0, 2), slice(3, 6))
    assert boxes[2] == (slice(0, 1), slice(2, 4), slice(0, 3))


@pytest.mark.parametrize("patch", [(8, 12, 16), (5, 7, 9), (1, 2, 3), (48, 64, 64)])
def test_a_voxel_weighs_what_it_weighs_in_nnunet(patch):
    theirs = compute_gaussian(patch, dtype=torch.float32, device=torch.device("cpu"))
    ours = importance_map(patch)
    assert ours.min() > 0
    assert ours.max() == 1
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=6e-8)


@pytest.mark.parametrize("shape", [(3, 9, 4), (8, 8, 8), (1, 1, 1), (7, 20, 2)])
def test_padding_is_that_of_nnunet(shape):
    image = torch.rand(shape)
    theirs, slicer = pad_nd_image(image, (8, 8, 8), "constant", {"value": 0}, True, None)
    ours, box = pad_to_patch(image, (8, 8, 8))
    assert torch.equal(ours, theirs)
    assert torch.equal(ours[box], theirs[slicer])


def test_a_grid_covers_every_voxel():
    slabs = all_windows((9, 10, 11), (4, 6, 8), 0.8)
    assert [slab.start for slab in slabs] == [0, 2, 5]
    assert [len(slab.windows) for slab in slabs] == [4, 4, 4]
    covered = torch.zeros(9, 10, 11, dtype=torch.int)
    for slab in slabs:
        for window in slab.windows:
            covered[window] += 1
    assert covered.min() > 0
