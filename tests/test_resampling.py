import numpy as np
import torch
import torch.nn.functional as F

from flare23_lib.resampling import Intensity, resample_image, resample_labels, resampled_shape


def test_the_shape_follows_the_spacing():
    assert resampled_shape((20, 512, 512), (2.0, 0.977, 0.977), (2.5, 1.5, 1.5)) == (16, 333, 333)


def test_intensity_is_clipped_and_normalized():
    image = torch.tensor([-2000.0, 0.0, 2000.0])
    normalized = Intensity(low=-100, high=300, mean=100, std=50).normalize(image)
    assert normalized.tolist() == [-4, -2, 4]


def test_a_linear_ramp_stays_one():
    ramp = torch.arange(8.0).expand(4, 4, 8).contiguous()
    doubled = resample_image(ramp, (4, 4, 16))
    assert torch.allclose(doubled[0, 0, 1:-1], torch.arange(16.0)[1:-1] / 2 - 0.25)


def test_labels_are_those_of_the_largest_interpolated_share():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (6, 7, 8)).astype(np.uint8))
    shape = (9, 5, 13)
    shares = F.interpolate(F.one_hot(labels.long()).permute(3, 0, 1, 2)[None].float(), size=shape, mode="trilinear")
    assert torch.equal(resample_labels(labels, shape), shares[0].argmax(0).to(torch.uint8))


def test_labels_of_the_same_shape_are_left_alone():
    labels = torch.ones((2, 3, 4), dtype=torch.uint8)
    assert resample_labels(labels, (2, 3, 4)) is labels
