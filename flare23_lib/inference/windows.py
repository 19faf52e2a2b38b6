"""Where the windows of a sliding window lie and what each voxel of a window weighs; nnU-Net's way.

Shapes and positions are (z, y, x) in voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F

Slices = tuple[slice, slice, slice]
"""A box in a (z, y, x) tensor."""

SIGMA_SCALE = 1 / 8
"""Standard deviation of the Gaussian weights, as a share of the patch."""


def window_starts(shape: Sequence[int], patch: Sequence[int], step: float) -> list[list[int]]:
    """Return where windows start on each axis.

    The windows are as few as cover the axis when neighbors lie at most `step` patches apart, spread evenly; the
    first starts at 0, the last ends at the end. The positions are those of nnU-Net's
    `compute_steps_for_sliding_window`.

    Args:
        shape: the image, at least as large as the patch on each axis.
        patch: the window.
        step: largest distance of neighbors, as a share of the patch, in (0, 1].

    Raises:
        ValueError: the image is smaller than the patch, or the step is outside (0, 1].
    """
    if not 0 < step <= 1:
        raise ValueError(f"step {step} is not in (0, 1]")
    starts = []
    for size, window in zip(shape, patch, strict=True):
        last = size - window
        if last < 0:
            raise ValueError(f"an image of {tuple(shape)} is smaller than the patch {tuple(patch)}")
        gaps = math.ceil(last / (window * step))
        spacing = last / gaps if gaps else 0.0
        starts.append([round(spacing * index) for index in range(gaps + 1)])
    return starts


def window_slices(starts: Sequence[Sequence[int]], patch: Sequence[int]) -> list[Slices]:
    """Return the box of every window, z outermost, x innermost."""
    return [
        tuple(slice(start, start + size) for start, size in zip(corner, patch, strict=True))
        for corner in product(*starts)
    ]


def importance_map(
    patch: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Return the weight of each voxel of a window: a Gaussian around its center, 1 at the top, never 0.

    That of nnU-Net's `compute_gaussian`: the center of an axis of n voxels is voxel n // 2, sigma is n / 8, and
    weights that the data type rounds to 0 become the smallest that it does not.

    Returns:
        A tensor of the patch's shape.
    """
    weights = torch.ones((), dtype=torch.float64)
    for size in patch:
        distance = torch.arange(size, dtype=torch.float64) - size // 2
        axis = torch.exp(-0.5 * (distance / (size * SIGMA_SCALE)) ** 2)
        weights = weights[..., None] * axis
    weights = weights.to(dtype)
    weights[weights == 0] = weights[weights > 0].min()
    return weights.to(device)


def pad_to_patch(image: torch.Tensor, patch: Sequence[int]) -> tuple[torch.Tensor, Slices]:
    """Pad an image with zeros, equally on both sides, until no axis is shorter than the patch.

    An odd rest goes to the upper end, as in nnU-Net. Zero is the mean of a normalized image, so padding comes
    after normalization.

    Args:
        image: (z, y, x).
        patch: (z, y, x).

    Returns:
        The padded image and the box that the image occupies in it.
    """
    missing = [max(0, window - size) for window, size in zip(patch, image.shape, strict=True)]
    below = [gap // 2 for gap in missing]
    box = tuple(slice(start, start + size) for start, size in zip(below, image.shape, strict=True))
    if not any(missing):
        return image, box
    # F.pad counts axes from the last to the first.
    widths = [width for gap, low in zip(missing[::-1], below[::-1], strict=True) for width in (low, gap - low)]
    return F.pad(image, widths), box


@dataclass(frozen=True)
class Grid:
    """The windows over one image.

    Attributes:
        windows: their boxes.
        importance: weight of each voxel of a window, of the patch's shape.
        coverage: sum of the weights at each voxel of the image, of the image's shape.
    """

    windows: list[Slices]
    importance: torch.Tensor
    coverage: torch.Tensor

    @classmethod
    def over(
        cls, shape: Sequence[int], patch: Sequence[int], step: float, device: torch.device | str = "cpu"
    ) -> Grid:
        """Lay windows over all of an image that is at least as large as the patch."""
        windows = window_slices(window_starts(shape, patch, step), patch)
        importance = importance_map(patch, device=device)
        coverage = torch.zeros(tuple(shape), device=device)
        for window in windows:
            coverage[window] += importance
        return cls(windows, importance, coverage)
