import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flare23_lib.preprocessing.resampling import (
    Axis,
    Intensity,
    normalized,
    prepare_image,
    resample_labels,
    resampled_shape,
)


def test_the_shape_follows_the_spacing():
    assert resampled_shape((20, 512, 512), (2.0, 0.977, 0.977), (2.5, 1.5, 1.5)) == (16, 333, 333)


def test_intensity_is_clipped_and_normalized():
    image = torch.tensor([-2000.0, 0.0, 2000.0])
    clipped = normalized(image, Intensity(low=-100, high=300, mean=100, std=50))
    assert clipped.tolist() == [-4, -2, 4]


def test_a_linear_ramp_stays_one():
    ramp = torch.arange(8.0).expand(4, 4, 8).contiguous()
    doubled = prepare_image(ramp.numpy(), Intensity(0, 8, 0, 1), (4, 4, 16))
    assert torch.allclose(doubled[0, 0, 1:-1], torch.arange(16.0)[1:-1] / 2 - 0.25)


@pytest.mark.parametrize("values", [(0, 5), (1, 3), (0, 2)])
@pytest.mark.parametrize("shape", [(9, 5, 13), (4, 5, 5), (6, 7, 9)])
@pytest.mark.parametrize("slab_bytes", [0, 2**26])
def test_labels_are_those_of_the_largest_interpolated_share(values, shape, slab_bytes):
    labels = torch.from_numpy(np.random.default_rng(0).integers(*values, (6, 7, 8)).astype(np.uint8))
    shares = F.interpolate(F.one_hot(labels.long()).permute(3, 0, 1, 2)[None].float(), size=shape, mode="trilinear")
    largest = shares[0].topk(2, dim=0)
    tie = (largest.values[0] - largest.values[1]) < 1e-5
    made = resample_labels(labels, shape, slab_bytes)
    assert torch.equal(made[~tie], largest.indices[0].to(torch.uint8)[~tie])
    assert tie.float().mean() < 0.1


def test_the_lowest_label_wins_a_tie():
    labels = torch.tensor([[[3, 1]], [[1, 3]]], dtype=torch.uint8)
    assert resample_labels(labels, (1, 1, 1)).item() == 1


def test_a_label_far_from_the_edge_is_found_where_it_is():
    labels = torch.zeros((12, 14, 16), dtype=torch.uint8)
    labels[4:8, 6:10, 2:6] = 9
    made = resample_labels(labels, (6, 7, 8))
    expected = torch.zeros((6, 7, 8), dtype=torch.uint8)
    expected[2:4, 3:5, 1:3] = 9
    assert torch.equal(made, expected)


def test_labels_of_the_same_shape_are_left_alone():
    labels = torch.ones((2, 3, 4), dtype=torch.uint8)
    assert resample_labels(labels, (2, 3, 4)) is labels


SHAPES = [((7, 9, 11), (4, 5, 6)), ((4, 5, 6), (9, 7, 13)), ((5, 8, 6), (5, 4, 12)), ((1, 1, 3), (2, 3, 1))]


@pytest.mark.parametrize(("source", "target"), SHAPES)
@pytest.mark.parametrize("slab_bytes", [0, 3000, 2**26])
def test_an_image_made_slab_by_slab_is_the_one_made_at_once(source, target, slab_bytes):
    array = np.random.default_rng(0).integers(-1200, 1500, source).astype(np.int16)
    intensity = Intensity(low=-970, high=279, mean=80.3, std=141.4)
    whole = F.interpolate(normalized(torch.from_numpy(array), intensity)[None, None], size=target, mode="trilinear")
    made = prepare_image(array, intensity, target, slab_bytes=slab_bytes)
    assert made.shape == target
    assert torch.allclose(made, whole[0, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "f4", ">f4", "f8"])
def test_every_stored_type_is_prepared_alike(kind):
    array = np.random.default_rng(0).integers(0, 120, (4, 5, 6))
    intensity = Intensity(low=10, high=100, mean=50, std=20)
    expected = prepare_image(array.astype(np.float32), intensity, (3, 4, 9))
    assert torch.equal(prepare_image(array.astype(kind).T.copy().T, intensity, (3, 4, 9)), expected)


def test_an_axis_names_the_neighbors_of_each_voxel():
    axis = Axis.between(2, 4)
    assert axis.lower.tolist() == [0, 0, 0, 1]
    assert axis.upper.tolist() == [1, 1, 1, 1]
    assert axis.weight.tolist() == [0, 0.25, 0.75, 0.25]
    part = Axis.between(10, 5).part(2, 4, origin=4)
    assert part.lower.tolist() == [0, 2]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turned_image_of_one_slice_is_resampled_as_its_copy(axis):
    shape = [6, 7, 8]
    shape[axis] = 1
    turned = np.flip(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), axis)
    intensity = Intensity(-1000, 1000, 0, 1)
    made = prepare_image(turned, intensity, (12, 14, 16))
    assert torch.equal(made, prepare_image(turned.copy(), intensity, (12, 14, 16)))


def test_a_label_that_lies_between_the_coarser_voxels_is_lost_without_harm():
    labels = torch.zeros((16, 16, 16), dtype=torch.uint8)
    labels[:, 4:12, 4:12] = 1
    labels[:, 0, 0] = 2  # voxels 1.5 and 5.5 are looked at in a row of four times fewer
    made = resample_labels(labels, (4, 4, 4))
    assert made.unique().tolist() == [0, 1]
