"""Intensity and resampling: the same operations when a model is trained and when it is used.

Resampling is trilinear with half-pixel centers (`align_corners=False`), all three axes alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Intensity:
    """CT intensity normalization: clip to [low, high] HU, subtract mean, divide by std (nnU-Net's CT scheme)."""

    low: float
    high: float
    mean: float
    std: float

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """Return the normalized image as float32, same shape."""
        return image.float().clamp(self.low, self.high).sub_(self.mean).div_(max(self.std, 1e-8))


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, int, int]:
    """Shape (z, y, x) after resampling from one spacing to another, rounded as nnU-Net rounds."""
    return tuple(
        max(1, int(np.round(size * old / new))) for size, old, new in zip(shape, spacing, target, strict=True)
    )


def resample_image(image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Resample a (z, y, x) or (c, z, y, x) tensor to a spatial shape; returns float32."""
    if tuple(image.shape[-3:]) == tuple(shape):
        return image.float()
    channels = image.float().reshape(1, -1, *image.shape[-3:])
    resampled = F.interpolate(channels, size=tuple(shape), mode="trilinear", align_corners=False)
    return resampled.reshape(*image.shape[:-3], *shape)


def resample_labels(labels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Resample a (z, y, x) uint8 label map: each label's mask trilinearly, then the strongest label.

    The lowest label wins a tie. Memory: two float32 volumes of the new shape, whatever the number of labels.
    """
    if tuple(labels.shape) == tuple(shape):
        return labels
    best = torch.full(tuple(shape), -1.0)
    result = torch.zeros(tuple(shape), dtype=labels.dtype)
    for value in torch.unique(labels):
        share = resample_image(labels == value, shape)
        stronger = share > best
        result[stronger] = value
        torch.maximum(best, share, out=best)
    return result
