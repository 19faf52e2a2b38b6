"""Patches whose labels are soft where a teacher hesitated between two classes: stored, and augmented.

In nnU-Net's data loader they have channels (`labels.SOFT_CHANNELS`), those of finer labels a whole factor of them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from flare23_lib.labels import SOFT_CHANNELS
from flare23_lib.nnunet.fine_labels import FineSpatialTransform, ImageTransform


class AddSoftChannels(SegOnlyTransform):
    """Gives the channels of soft labels to those that have none; `voxels` are the labels in a voxel of the image."""

    def __init__(self, voxels: int = 1) -> None:
        super().__init__()
        self.channels = SOFT_CHANNELS * voxels

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        missing = self.channels - len(segmentation)
        return torch.cat([segmentation, segmentation.new_zeros(missing, *segmentation.shape[1:])])


class SoftSpatialTransform(ImageTransform):
    """A spatial transform that takes soft labels from the nearest voxel; labels are interpolated as ever."""

    def __init__(self, transform: SpatialTransform | FineSpatialTransform) -> None:
        super().__init__(transform)
        self.nearest = copy.deepcopy(transform)
        spatial = self.nearest.transform if isinstance(self.nearest, FineSpatialTransform) else self.nearest
        spatial.mode_seg = "nearest"

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        # Slices are channels too where patches are turned in the plane alone.
        labels = len(segmentation) // SOFT_CHANNELS
        parts = zip((self.transform, self.nearest), (segmentation[:labels], segmentation[labels:]), strict=True)
        return torch.cat([transform._apply_to_segmentation(part, **params) for transform, part in parts])


def with_soft_labels(transforms: ComposeTransforms, voxels: int = 1) -> ComposeTransforms:
    """Return transforms for patches of which some have soft labels.

    `transforms` are nnU-Net's, or those of finer labels (`fine_labels.with_fine_labels`); `voxels` are the labels in
    a voxel of the image.
    """
    changed: list[BasicTransform] = [AddSoftChannels(voxels)]
    for transform in transforms.transforms:
        is_spatial = isinstance(transform, SpatialTransform | FineSpatialTransform)
        changed.append(SoftSpatialTransform(transform) if is_spatial else transform)
    return ComposeTransforms(changed)
