"""Labels at full resolution from logits at the model's resolution.

The logits are interpolated, not the labels: thin organs keep their shape. Interpolation is trilinear with
half-pixel centers (`align_corners=False`), the same operation that resampled the image.

Not every voxel needs it. An output voxel's logits are a convex combination of those of the eight voxels around it. If
one class is the strongest at all eight, it is the strongest in the combination too. Only where the eight disagree, a
fraction of the volume along the borders of organs, are the logits of all classes interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from flare23_lib.axes import as_triple
from flare23_lib.labels import pack_soft
from flare23_lib.preprocessing.resampling import Axis

UNDECIDED = 255
"""Marks a cell whose corners disagree; no class has this index."""

CHUNK_VOXELS = 2**18
"""How many undecided voxels are interpolated at a time."""

SURE = 0.99
"""Share of the stronger of two classes from which its label is as good as certain."""

BLOCK_VOXELS = 2**24
"""How many output voxels are searched for undecided ones at a time."""

Axes = tuple[Axis, Axis, Axis]


def argmax_classes(logits: torch.Tensor) -> torch.Tensor:
    """Return the index of the strongest class of each voxel; the lowest one wins a tie.

    From logits (..., classes) to uint8 (...).
    """
    return logits.argmax(dim=-1).to(torch.uint8)


def soft_labels(sums: torch.Tensor, divisor: torch.Tensor, values: np.ndarray) -> np.ndarray:
    """Return the two strongest classes of each voxel, with the share of the first of their probability.

    Args:
        sums: float32 (z, y, x, classes), two classes or more.
        divisor: (z, y, x), what the sums are to be divided by to be logits, positive.
        values: label value of each class.

    Returns:
        int32 (z, y, x) soft labels (`labels.pack_soft`), 0 where the share is `SURE` or more.
    """
    logits, classes = sums.topk(2, dim=-1)
    share = torch.sigmoid((logits[..., 0] - logits[..., 1]) / divisor)
    parts = (share * 255).round().mul(share < SURE).byte()
    first, second = (values[classes[..., rank].cpu().numpy()] for rank in range(2))
    hesitating = parts.cpu().numpy()
    return np.where(hesitating, pack_soft(first, second, hesitating), 0)


def interpolated_labels(logits: torch.Tensor, labels: torch.Tensor, axes: Axes, weight: torch.Tensor) -> torch.Tensor:
    """Return the strongest classes of interpolated logits for a block of output voxels.

    Args:
        logits: float32 (z, y, x, classes), contiguous.
        labels: `argmax_classes(logits)`.
        axes: (z, y, x), where the block's voxels lie between those of the logits.
        weight: (z, y, x), contiguous, what the logits are to be divided by, positive.

    Returns:
        uint8 (z, y, x), as many as the axes have places, on the logits' device.
    """
    cells = _uniform_cells(labels)
    for dim in (2, 1):
        cells = _select(cells, axes[dim].lower, dim)
    result = _select(cells, axes[0].lower, 0)
    axes = as_triple(axis.to(logits.device) for axis in axes)
    rows = logits.view(-1, logits.shape[-1])
    thickness = max(1, BLOCK_VOXELS // max(1, result[0].numel()))
    for first in range(0, len(result), thickness):
        block = result[first : first + thickness].view(-1)
        undecided = _nonzero(block == UNDECIDED)
        for start in range(0, len(undecided), CHUNK_VOXELS):
            part = undecided[start : start + CHUNK_VOXELS]
            corners, shares = _corners(part + first * result[0].numel(), axes, logits.shape)
            shares = shares / weight.view(-1)[corners]
            # One weighted sum of eight rows per voxel, without the eight rows ever being side by side in memory.
            mixed = F.embedding_bag(corners, rows, mode="sum", per_sample_weights=shares)
            block[part] = argmax_classes(mixed)
    return result


def _uniform_cells(labels: torch.Tensor) -> torch.Tensor:
    """Return, for the cell above each voxel, the label that its eight corners share, or `UNDECIDED`."""
    low = high = labels
    for dim in range(3):
        size = labels.shape[dim]
        if size > 1:
            above = slice(1, None), slice(-1, None)
            low, high = (
                choose(data, torch.cat([data[(slice(None),) * dim + (part,)] for part in above], dim))
                for choose, data in ((torch.minimum, low), (torch.maximum, high))
            )
    return torch.where(low == high, low, UNDECIDED)


def _select(data: torch.Tensor, indices: torch.Tensor, dim: int) -> torch.Tensor:
    """Pick indices along one dimension; on the CPU with numpy, which is several times faster at it."""
    if data.device.type == "cpu":
        return torch.from_numpy(np.take(data.numpy(), indices.numpy(), axis=dim))
    return data.index_select(dim, indices.to(data.device))


def _nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Return where a flat mask is set; on the CPU with numpy, which is several times faster at it."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero()[:, 0]


def _corners(voxels: torch.Tensor, axes: Axes, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the eight corners of output voxels and what each contributes.

    From flat indices (n,) into the output block to flat indices into the logits (z, y, x, ...) and shares that sum
    to 1, both (n, 8).
    """
    height, width = (len(axis.lower) for axis in axes[1:])
    rest = torch.div(voxels, width, rounding_mode="floor")
    places = (torch.div(rest, height, rounding_mode="floor"), rest % height, voxels % width)
    strides = (shape[1] * shape[2], shape[2], 1)
    indices, shares = [], []
    for axis, place, stride in zip(axes, places, strides, strict=True):
        share = axis.weight[place]
        indices.append((axis.lower[place] * stride, axis.upper[place] * stride))
        shares.append((1 - share, share))
    corners = [z + y + x for z, y, x in product(*indices)]
    weights = [z * y * x for z, y, x in product(*shares)]
    return torch.stack(corners, dim=1), torch.stack(weights, dim=1)
