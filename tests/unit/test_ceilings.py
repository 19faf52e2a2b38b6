"""Labels averaged over the voxels of a coarser grid, in the benchmark of what a grid costs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import benchmark

SIZES = st.integers(1, 9)


@pytest.fixture(scope="module")
def ceilings():
    return benchmark("ceilings")


@given(source=SIZES, target=SIZES)
def test_an_average_covers_the_axis_evenly(ceilings, source, target):
    matrix = ceilings.area_matrix(source, target)
    torch.testing.assert_close(matrix.sum(1), torch.ones(target))
    torch.testing.assert_close(matrix.sum(0), torch.full((source,), target / source))


def test_a_share_is_what_the_marked_voxels_cover(ceilings):
    matrix = ceilings.area_matrix(3, 2).tolist()
    assert matrix == [pytest.approx([2 / 3, 1 / 3, 0]), pytest.approx([0, 1 / 3, 2 / 3])]
    mask = torch.zeros(3, 2, 4, dtype=torch.bool)
    mask[0, 0, 1] = True
    assert ceilings.area_shares(mask, (2, 1, 2)).flatten().tolist() == pytest.approx([2 / 3 / 2 / 2, 0, 0, 0])


@given(source=st.tuples(SIZES, SIZES, SIZES), target=st.tuples(SIZES, SIZES, SIZES), seed=st.integers(0, 99))
def test_shares_keep_the_volume_and_add_up(ceilings, source, target, seed):
    labels = torch.randint(0, 3, source, generator=torch.Generator().manual_seed(seed))
    shares = torch.stack([ceilings.area_shares(labels == index, target) for index in range(3)])
    torch.testing.assert_close(shares.sum(0), torch.ones(target))
    for index in range(3):
        part = float((labels == index).float().mean())
        assert float(shares[index].mean()) == pytest.approx(part, abs=1e-5)
