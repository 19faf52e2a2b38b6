"""nnU-Net's augmentation with elastic deformation that shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

ELASTIC_PROBABILITY = 0.2
ELASTIC_SIGMA = (9, 13)
ELASTIC_DISPLACEMENT = {2: (0, 9), 3: (0, 7)}
"""Elastic deformation: the share of patches that are deformed, the width of the Gaussian that smooths the
displacements, and the largest displacement along an axis, by number of axes; the last two in voxels, drawn uniformly
for each axis. nnU-Net deforms patches more than three times as wide as deep in the plane alone.

The paper names the augmentation, not its strength. These are from nnU-Net v1's table of defaults: probability 0.2,
sigma 9 to 13, alpha 0 to 900 in 3-D and 0 to 200 in the plane. Noise smoothed with a sigma of 11 and multiplied by
the largest alpha moves the farthest voxel of one of the paper's patches by 7, in the plane by 9. (v1's later trainer,
on which STU-Net was built, has the deformation off; in the paper it is on.) batchgeneratorsv2's own default
is up to a fifth of a voxel, which has no effect."""


class _ElasticScale:
    """Draws the width of the Gaussian along an axis, in sizes of the patch as batchgeneratorsv2 wants it."""

    def __call__(self, image: torch.Tensor, dim: int, patch_size: Sequence[int]) -> float:
        return np.random.uniform(*ELASTIC_SIGMA) / patch_size[dim]

    def __repr__(self) -> str:
        return f"{ELASTIC_SIGMA} voxels"


def deform_elastically(transforms: ComposeTransforms) -> None:
    """Turn on the elastic deformation of nnU-Net's transforms, in place."""
    for transform in transforms.transforms:
        if isinstance(transform, SpatialTransform):
            transform.p_elastic_deform = ELASTIC_PROBABILITY
            transform.elastic_deform_scale = _ElasticScale()
            transform.elastic_deform_magnitude = ELASTIC_DISPLACEMENT[len(transform.patch_size)]
