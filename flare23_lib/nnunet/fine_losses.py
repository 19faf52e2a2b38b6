"""The loss at the resolution of the label, where that is finer than the network's grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from flare23_lib.axes import as_triple
from flare23_lib.nnunet.losses import loss_of_sums, share_of, sums_of_shares, sums_of_target
from flare23_lib.preprocessing.resampling import Axis

SLAB_BYTES = 256 * 2**20
"""How much memory the logits of the slices may take that are interpolated at a time, at least one slice; the loss
takes some four times as much."""


class FineLabelLoss(nn.Module):
    """The loss of label sets where labels are finer than the network's grid.

    At each scale of deep supervision the labels are averaged over the voxels of the scale. With `native` the logits
    of the first scale are interpolated to the labels' grid instead, as in inference, a few slices at a time.

    Args:
        weights: of the scales; those of weight 0 are not computed.
        native: whether the logits of the first scale are interpolated.
        several: whether processes share the batch.
    """

    def __init__(self, weights: Sequence[float], native: bool, several: bool = False) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.native = native
        self.several = several

    def forward(self, scales: Sequence[torch.Tensor], target: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        """Return the loss.

        Args:
            scales: logits (b, classes, z, y, x) of each scale, the finest first.
            target: as `losses.sums_of_target`, with a whole number of voxels in each voxel of a scale.
            sets: (b, classes + 1, classes), `admissible_sets` of each case.
        """
        shares = None
        losses = []
        for index, (weight, logits) in enumerate(zip(self.weights, scales, strict=True)):
            if weight == 0:
                continue
            if self.native and index == 0:
                total = sums_of_slabs(logits, target, sets)
            else:
                if shares is None:
                    shares = label_shares(target, logits.shape[2:], logits.shape[1] + 1)
                shares = F.adaptive_avg_pool3d(shares, as_triple(logits.shape[2:]))
                total = sums_of_shares(logits, shares, sets)
            losses.append(weight * loss_of_sums(total, sets, self.several))
        return torch.stack(losses).sum()


def label_shares(target: torch.Tensor, shape: Sequence[int], count: int) -> torch.Tensor:
    """Return the share of each of `count` labels in the voxels of a coarser grid, float32 (b, count, z, y, x).

    The target is as in `losses.sums_of_target`; the shape of the grid, (z, y, x), divides that of the labels.
    """
    shares = torch.empty((len(target), count, *shape), device=target.device)
    for index in range(count):  # a label at a time: finer voxels are many
        shares[:, index] = F.adaptive_avg_pool3d(share_of(target, index, count), as_triple(shape))[:, 0]
    return shares


def sums_of_slabs(logits: torch.Tensor, target: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
    """Return the sums of logits that are interpolated to the grid of finer labels.

    The interpolated logits are never there as a whole: slabs of them are made, and made again for the gradient.

    Args:
        logits: (b, classes, z, y, x), of any floating-point type.
        target: as `losses.sums_of_target`, on a finer grid of the same extent.
        sets: (b, classes + 1, classes), `admissible_sets` of each case.

    Returns:
        As `sums_of_target`.
    """
    depth, height, width = target.shape[2:]
    thickness = max(1, SLAB_BYTES // (4 * logits.shape[0] * logits.shape[1] * height * width))
    axis = Axis.between(logits.shape[2], depth)

    def of_slab(logits: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        part = axis.part(start, stop)
        kind = torch.promote_types(logits.dtype, torch.float32)
        lower, upper, share = (item.to(logits.device) for item in (part.lower, part.upper, part.weight))
        below, above = (logits.index_select(2, index).to(kind) for index in (lower, upper))
        slab = torch.lerp(below, above, share.to(kind)[:, None, None])
        plane = F.interpolate(slab.flatten(1, 2), size=(height, width), mode="bilinear", align_corners=False)
        slab = plane.view(*slab.shape[:3], height, width)
        return sums_of_target(slab, target[:, :, start:stop], sets)

    sums = [
        checkpoint(of_slab, logits, start, min(start + thickness, depth), use_reentrant=False)
        for start in range(0, depth, thickness)
    ]
    return torch.stack(sums).sum(0)
