"""Patches whose labels are finer than their images, or soft: how they are stored, and augmented like the image.

The labels of a case lie on a grid with a whole number of voxels in each voxel of the image, its factor (z, y, x). For
nnU-Net's data loader, which cuts images and labels alike, they are channels of the image's grid: the voxels within a
voxel, in the order of (z, y, x). Where a teacher hesitated between two classes, labels have further channels
(`labels.SOFT_CHANNELS`), each with all voxels within a voxel.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from flare23_lib.labels import SOFT_CHANNELS


def unpacked(channels: torch.Tensor, factor: Sequence[int]) -> torch.Tensor:
    """Return labels on their fine grid, (c, z, y, x), out of channels of the coarse one.

    These are (c * voxels within a voxel, z, y, x), as `preprocessing.preprocess.packed` makes them; the factor is
    (z, y, x).
    """
    parts = channels.reshape(-1, *factor, *channels.shape[1:]).permute(0, 4, 1, 5, 2, 6, 3)
    return parts.reshape(len(parts), *(size * one for size, one in zip(channels.shape[1:], factor, strict=True)))


def refined(grid: torch.Tensor, factor: Sequence[int]) -> torch.Tensor:
    """Return where the voxels of a finer patch are taken from, (*patch times factor, axes).

    These places lie linearly between those of the patch, `grid`, (*patch, axes), and beyond the outermost ones, in
    the coordinates of torch's `grid_sample`, which are those of the finer labels, too. `factor` has a number for each
    axis of the patch.
    """
    fine = grid
    for axis, one in enumerate(factor):
        if one == 1:
            continue
        size = fine.shape[axis]
        ends = [fine.narrow(axis, place, 1) for place in (0, min(1, size - 1), max(0, size - 2), size - 1)]
        fine = torch.cat([2 * ends[0] - ends[1], fine, 2 * ends[3] - ends[2]], axis)
        position = (torch.arange(size * one) + 0.5) / one + 0.5
        lower = position.long()
        share = (position - lower).view([-1 if other == axis else 1 for other in range(fine.ndim)])
        fine = torch.lerp(fine.index_select(axis, lower), fine.index_select(axis, lower + 1), share)
    return fine


class UnpackLabels(SegOnlyTransform):
    """Lays labels out on their grid and, if some are soft, gives the channels of soft labels to those without."""

    def __init__(self, factor: Sequence[int], soft: bool) -> None:
        super().__init__()
        self.factor = tuple(factor)
        self.channels = SOFT_CHANNELS if soft else 1

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        labels = unpacked(segmentation, self.factor)
        return torch.cat([labels, labels.new_zeros(self.channels - len(labels), *labels.shape[1:])])


class SpatialLabelTransform(BasicTransform):
    """A spatial transform of the image, of as many axes as the factor has, and the same of finer or soft labels.

    Soft labels come from the nearest voxel; labels are interpolated as ever.
    """

    def __init__(self, transform: SpatialTransform, factor: Sequence[int], soft: bool) -> None:
        super().__init__()
        self.transform = transform
        self.factor = tuple(factor)
        self.soft = soft

    def get_parameters(self, **data_dict: Any) -> dict:
        """Draw the parameters of the transform."""
        return self.transform.get_parameters(**data_dict)

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        return self.transform._apply_to_image(img, **params)

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        fine = copy.copy(self.transform)
        sizes, centers = self.transform.patch_size, params["center_location_in_pixels"]
        fine.patch_size = tuple(int(size) * one for size, one in zip(sizes, self.factor, strict=True))
        starts = [math.floor(center) - size // 2 for center, size in zip(centers, sizes, strict=True)]
        places = zip(starts, fine.patch_size, self.factor, strict=True)
        params = params | {"center_location_in_pixels": [start * one + size // 2 for start, size, one in places]}
        if params["grid"] is not None:
            params["grid"] = refined(params["grid"], self.factor)
        if not self.soft:
            return fine._apply_to_segmentation(segmentation, **params)
        nearest = copy.copy(fine)
        nearest.mode_seg = "nearest"
        labels = len(segmentation) // SOFT_CHANNELS  # slices are channels too where patches are turned in the plane
        parts = (fine, segmentation[:labels]), (nearest, segmentation[labels:])
        return torch.cat([transform._apply_to_segmentation(part, **params) for transform, part in parts])


def with_labels(transforms: ComposeTransforms, factor: Sequence[int], soft: bool) -> ComposeTransforms:
    """Return transforms of patches that start from packed labels and keep them as fine and as soft as they are.

    `transforms` are nnU-Net's, for finer labels without the scales of deep supervision; the factor is (z, y, x).
    """
    changed: list[BasicTransform] = [UnpackLabels(factor, soft)]
    for transform in transforms.transforms:
        if isinstance(transform, SpatialTransform):
            transform = SpatialLabelTransform(transform, tuple(factor)[-len(transform.patch_size) :], soft)
        changed.append(transform)
    return ComposeTransforms(changed)
