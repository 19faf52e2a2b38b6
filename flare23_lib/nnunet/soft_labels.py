"""Labels that are soft where a teacher hesitated between two classes: augmented, and learned from.

In nnU-Net's data loader they have channels: the label, the first and the second class, and the share of the first in
255ths, which is 0 where the label alone counts (`preprocessing.preprocess.preprocess_labels`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from flare23_lib.nnunet.losses import LabelSetLoss, loss_of_sums, sums_of_shares

CHANNELS = 4


class AddSoftChannels(SegOnlyTransform):
    """Gives the channels of soft labels to those that have none."""

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        missing = CHANNELS - len(segmentation)
        return torch.cat([segmentation, segmentation.new_zeros(missing, *segmentation.shape[1:])])


class SoftSpatialTransform(BasicTransform):
    """A spatial transform that takes soft labels from the nearest voxel; labels are interpolated as ever.

    Args:
        transform: of images and labels.
    """

    def __init__(self, transform: SpatialTransform) -> None:
        super().__init__()
        self.transform = transform
        self.nearest = copy.copy(transform)
        self.nearest.mode_seg = "nearest"

    def get_parameters(self, **data_dict: Any) -> dict:
        """Draw the parameters of the transform."""
        return self.transform.get_parameters(**data_dict)

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        return self.transform._apply_to_image(img, **params)

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        labels = len(segmentation) // CHANNELS  # slices are channels too where patches are turned in the plane alone
        parts = zip((self.transform, self.nearest), (segmentation[:labels], segmentation[labels:]), strict=True)
        return torch.cat([transform._apply_to_segmentation(part, **params) for transform, part in parts])


def with_soft_labels(transforms: ComposeTransforms) -> ComposeTransforms:
    """Return nnU-Net's transforms for patches of which some have soft labels."""
    changed: list[BasicTransform] = [AddSoftChannels()]
    for transform in transforms.transforms:
        is_spatial = isinstance(transform, SpatialTransform)
        changed.append(SoftSpatialTransform(transform) if is_spatial else transform)
    return ComposeTransforms(changed)


def soft_shares(target: torch.Tensor, count: int) -> torch.Tensor:
    """Return the share of each label in each voxel.

    Args:
        target: (b, `CHANNELS`, z, y, x).
        count: how many labels there are, the last of voxels to ignore, which no class has a share in.

    Returns:
        float32 (b, count, z, y, x).
    """
    labels, first, second, share = target.long().split(1, dim=1)
    is_soft = (share > 0) & (labels < count - 1)
    part = torch.where(is_soft, share / 255, 1.0)
    shares = torch.zeros((len(target), count, *target.shape[2:]), device=target.device)
    shares.scatter_add_(1, torch.where(is_soft, first, labels), part)
    return shares.scatter_add_(1, torch.where(is_soft, second, labels), 1 - part)


class SoftLabelLoss(LabelSetLoss):
    """The loss of label sets for labels of which some are soft: cross-entropy with the shares of both classes, and a
    soft Dice that is largest where probability and share are equal."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        """Return the loss.

        Args:
            logits: (b, classes, z, y, x), of any floating-point type.
            target: (b, `CHANNELS`, z, y, x).
            sets: (b, classes + 1, classes), `admissible_sets` of each case.
        """
        shares = soft_shares(target, logits.shape[1] + 1)
        return loss_of_sums(sums_of_shares(logits, shares, sets), sets, self.several)
