import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import SHARED
from scipy import ndimage

from flare23_lib.inference.body_mask import Body, find_body
from flare23_lib.inference.windows import all_windows, body_windows, center_first_windows
from flare23_lib.io.nifti import read_volume
from flare23_lib.phantom import draw_phantom
from flare23_lib.preprocessing.resampling import resampled_shape

REAL = SHARED / "real_cohort"
PATCH, TARGET = (48, 128, 160), (2.5, 1.5, 1.5)


def cylinder(shape=(12, 80, 100), center=(40, 50), radii=(22, 32), value=40):
    """A body of one tissue in air, in voxels of 4 mm."""
    y, x = np.ogrid[: shape[1], : shape[2]]
    inside = ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 <= 1
    array = np.full(shape, -1000, np.int16)
    array[:, inside] = value
    return array


def find(array, spacing):
    """The body in indices of the image itself."""
    return find_body(array, spacing, array.shape)


def full(body):
    """The mask at the image's own resolution."""
    index = [np.minimum(np.arange(size) // round(1 / share), count - 1)
             for size, share, count in zip(body.shape, body.cells, body.mask.shape, strict=True)]  # fmt: skip
    return body.mask[np.ix_(*index)]


def test_the_mask_is_the_body_with_a_margin():
    array = cylinder()
    mask = full(find(array, (4.0, 4.0, 4.0)))
    assert mask[array > -500].all()
    assert not mask[:, :10].any()
    assert mask.mean() < 1.7 * (array > -500).mean()


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (2.0, 4.0, 4.0), (6.0, 4.0, 4.0)])
def test_the_margin_is_about_twelve_millimeters_along_every_axis(spacing):
    array = cylinder(shape=(40, 80, 100))
    array[:15] = array[25:] = -1000
    mask = full(find(array, spacing))
    there = np.argwhere(mask)
    inside = np.argwhere(array > -500)
    first, last = inside.min(axis=0) - there.min(axis=0), there.max(axis=0) - inside.max(axis=0)
    for axis, size in enumerate(spacing):
        assert min(first[axis], last[axis]) * size > 12 - 4  # a cell of the grid may hide up to 4 mm of the body
        assert max(first[axis], last[axis]) * size < 12 + 2 * max(size, 4)


def test_a_thin_part_that_hangs_on_to_the_body_from_another_slice_is_inside():
    array = cylinder(shape=(12, 80, 100))
    array[6:] = -1000
    array[6:9, 40:42, 50:52] = 40  # 8 mm wide, and 12 mm long
    assert full(find(array, (4.0, 4.0, 4.0)))[6:12, 40:42, 50:52].all()


def test_lungs_gas_and_a_folded_skin_are_inside():
    array = cylinder()
    array[:, 30:50, 30:45] = -850
    array[:, 38:42, 60:84] = -1000  # open to the side
    assert full(find(array, (4.0, 4.0, 4.0)))[cylinder() > -500].all()


def test_a_table_is_not_the_body():
    array = cylinder()
    array[:, 70:73, 5:95] = -200
    assert not full(find(array, (4.0, 4.0, 4.0)))[:, 70:].any()


def test_an_arm_beside_the_body_is_inside():
    array = cylinder()
    array[:, 35:46, 90:99] = 50
    assert full(find(array, (4.0, 4.0, 4.0)))[:, 35:46, 90:99].all()


@pytest.mark.parametrize("value", [-1024, -1000, -600])
def test_air_has_no_body(value):
    assert find(np.full((10, 60, 60), value, np.int16), (4.0, 4.0, 4.0)) is None


def test_an_image_without_air_is_body_everywhere():
    assert find(np.full((10, 60, 60), 40, np.int16), (4.0, 4.0, 4.0)).mask.all()


@pytest.mark.parametrize("spacing", [(0.7, 0.8, 0.8), (5.0, 0.9, 0.9), (8.0, 1.5, 1.5), (14.0, 12.0, 12.0)])
def test_the_spacing_may_be_any(spacing):
    shape = tuple(max(2, round(size / step)) for size, step in zip((120, 320, 400), spacing, strict=True))
    z, y, x = (np.arange(size) * step for size, step in zip(shape, spacing, strict=True))
    inside = ((y - 160) / 90)[None, :, None] ** 2 + ((x - 200) / 130)[None, None, :] ** 2 + 0 * z[:, None, None] <= 1
    array = np.where(inside, 30, -1000).astype(np.int16)
    body = find(array, spacing)
    assert full(body)[inside].all()
    assert body.mask.mean() < 0.8


def covered(slabs, shape):
    result = np.zeros(shape, bool)
    for slab in slabs:
        for window in slab.windows:
            result[window] = True
    return result


@given(st.data())
def test_every_voxel_of_the_mask_is_in_a_window(data):
    size = st.integers(1, 30)
    shape = data.draw(st.tuples(size, size, size))
    patch = data.draw(st.tuples(*(st.integers(1, 12),) * 3))
    stride = data.draw(st.tuples(*(st.integers(1, 3),) * 3))
    cells = tuple(-(-s // n) for s, n in zip(shape, stride, strict=True))
    mask = np.zeros(cells, bool)
    for _ in range(data.draw(st.integers(1, 3))):
        mask[tuple(data.draw(st.integers(0, count - 1)) for count in cells)] = True
    resampled = data.draw(st.tuples(*(st.integers(max(1, s // 2), 2 * s) for s in shape)))
    padded = tuple(map(max, resampled, patch))
    offset = [(new - old) // 2 for new, old in zip(padded, resampled, strict=True)]
    body = Body(mask, tuple(s / new / n for s, new, n in zip(shape, resampled, stride, strict=True)), resampled)
    slabs = body_windows(padded, patch, data.draw(st.floats(0.3, 1)), body, offset)
    # The cell of each resampled voxel's center.
    index = [np.minimum(((np.arange(n) + 0.5) * s / n / step).astype(int), c - 1)
             for n, s, step, c in zip(resampled, shape, stride, cells, strict=True)]  # fmt: skip
    box = tuple(slice(low, low + n) for low, n in zip(offset, resampled, strict=True))
    assert covered(slabs, padded)[box][mask[np.ix_(*index)]].all()
    for slab in slabs:
        for window in slab.windows:
            assert all(p.start >= 0 and p.stop <= n for p, n in zip(window, padded, strict=True))
            assert all(p.stop - p.start == n for p, n in zip(window, patch, strict=True))


def windows_over(array, spacing):
    resampled = resampled_shape(array.shape, spacing, TARGET)
    padded = tuple(map(max, resampled, PATCH))
    offset = [(new - old) // 2 for new, old in zip(padded, resampled, strict=True)]
    slabs = body_windows(padded, PATCH, 0.8, find_body(array, spacing, resampled), offset)
    box = tuple(slice(low, low + n) for low, n in zip(offset, resampled, strict=True))
    index = [np.minimum(((np.arange(s) + 0.5) * n / s).astype(int), n - 1)
             for s, n in zip(array.shape, resampled, strict=True)]  # fmt: skip
    counts = sum(len(slab.windows) for slab in slabs), sum(len(w.windows) for w in all_windows(padded, PATCH, 0.8))
    return covered(slabs, padded)[box][np.ix_(*index)], counts


def skin_and_below(array):
    """The body by other means: what is denser than -300 HU, its largest part, its holes filled slice by slice."""
    dense = np.stack([ndimage.binary_opening(plane > -300) for plane in array])
    parts, _ = ndimage.label(dense)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_nothing_inside_a_phantoms_skin_is_missed_and_windows_are_saved(seed):
    phantom = draw_phantom(np.random.default_rng(seed), tumors=True)
    array, affine = phantom.image, phantom.affine
    seen, (body, image) = windows_over(array, tuple(np.abs(np.diag(affine))[2::-1]))
    assert seen[skin_and_below(array)].all()
    assert body < image


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real CTs is not there")
def test_nothing_inside_the_skin_of_real_cts_is_missed():
    paths = sorted(REAL.glob("*/*_0000.nii.gz"))
    assert paths
    for path in paths:
        volume = read_volume(path)
        seen, _ = windows_over(volume.array, volume.geometry.spacing)
        assert seen[skin_and_below(volume.array)].all(), path


def test_the_window_nearest_to_the_center_comes_first():
    slabs = center_first_windows((8, 30, 30), (8, 10, 10), 1.0)
    assert [slab.probe for slab in slabs] == [True]
    assert slabs[0].windows[0] == (slice(0, 8), slice(10, 20), slice(10, 20))
    assert set(map(str, slabs[0].windows)) == set(map(str, all_windows((8, 30, 30), (8, 10, 10), 1.0)[0].windows))
    assert torch.tensor([w[1].start for w in slabs[0].windows]).float().mean() == 10


def test_where_the_body_takes_as_many_windows_they_lie_as_over_the_image():
    shape, patch = (8, 40, 40), (8, 16, 16)
    mask = np.zeros(shape, bool)
    mask[:, 2:38, 2:38] = True
    made = body_windows(shape, patch, 0.5, Body(mask, (1.0, 1.0, 1.0), shape), (0, 0, 0))
    assert [list(slab.windows) for slab in made] == [list(slab.windows) for slab in all_windows(shape, patch, 0.5)]


def test_windows_without_body_are_left_out():
    shape, patch = (8, 40, 40), (8, 10, 10)
    mask = np.zeros(shape, bool)
    mask[:, :5, :5] = mask[:, 35:, 35:] = True
    (slab,) = body_windows(shape, patch, 1.0, Body(mask, (1.0, 1.0, 1.0), shape), (0, 0, 0))
    assert len(slab.windows) == 2


@pytest.mark.parametrize("gap", [np.s_[:, :40, 45:55], np.s_[:, 35:45, :50]])
def test_a_gap_that_reaches_the_edge_of_the_image_has_walls_in_its_rows_or_columns(gap):
    array = np.full((12, 80, 100), 40, np.int16)
    array[:, 75:] = array[gap] = -1000
    assert find_body(array, (4.0, 4.0, 4.0), array.shape).mask[:, :75].all()


@pytest.mark.parametrize(("value", "is_body"), [(-400, True), (-600, False)])
def test_a_body_is_denser_than_500_hu_below_water(value, is_body):
    array = np.full((12, 80, 100), -1000, np.int16)
    array[:, 20:60, 30:70] = value
    assert (find_body(array, (4.0, 4.0, 4.0), array.shape) is not None) == is_body
