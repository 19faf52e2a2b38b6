"""Labels at full resolution from logits at the model's resolution.

The logits are interpolated, not the labels: thin organs keep their shape. Interpolation is trilinear with
half-pixel centers (`align_corners=False`), the same operation that resampled the image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F

SLAB_BYTES = 256 * 2**20
"""How large the interpolated logits of one slab may be."""


def labels_from_logits(
    logits: torch.Tensor, shape: Sequence[int], excluded: Collection[int] = (), slab_bytes: int = SLAB_BYTES
) -> torch.Tensor:
    """Interpolate logits to a shape and take the strongest class of each voxel.

    Equals `F.interpolate(logits, shape, mode="trilinear").argmax()` up to float rounding, but holds the logits of
    only a few slices at a time. The lowest index wins a tie.

    Args:
        logits: (classes, z, y, x), float32.
        shape: (z, y, x) of the result.
        excluded: indices of classes that may not win.
        slab_bytes: memory for interpolated logits; at least one slice is made at a time.

    Returns:
        uint8 indices of the shape, on the logits' device.

    Raises:
        ValueError: every class is excluded.
    """
    barred = torch.tensor(sorted(set(excluded)), dtype=torch.long, device=logits.device)
    if len(barred) >= len(logits):
        raise ValueError("every class is excluded")
    depth, height, width = shape
    lower, upper, share = _neighbors(logits.shape[1], depth, logits.device)
    labels = torch.empty(tuple(shape), dtype=torch.uint8, device=logits.device)
    slice_bytes = 4 * len(logits) * max(height * width, logits.shape[2] * logits.shape[3])
    thickness = max(1, slab_bytes // slice_bytes)
    for start in range(0, depth, thickness):
        slab = slice(start, start + thickness)
        between = torch.lerp(logits[:, lower[slab]], logits[:, upper[slab]], share[slab, None, None])
        resized = _resize_slices(between, height, width).index_fill_(0, barred, -torch.inf)
        labels[slab] = resized.argmax(dim=0)
    return labels


def _neighbors(source: int, target: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, for each voxel of an axis, the source voxels on either side and how far it is to the upper one.

    In float32 and in the order of torch's own interpolation, so that rounding falls the same way.
    """
    scale = torch.tensor(source, dtype=torch.float32) / target
    position = (scale * (torch.arange(target) + 0.5) - 0.5).clamp(min=0)
    lower = position.long().clamp(max=source - 1)
    upper = (lower + 1).clamp(max=source - 1)
    share = (position - lower).clamp(0, 1)
    return lower.to(device), upper.to(device), share.to(device)


def _resize_slices(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Interpolate (classes, z, y, x) in y and x only."""
    if logits.shape[2:] == (height, width):
        return logits
    return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
