"""Where the windows of a sliding window lie and what each voxel of a window weighs.

Three ways to lay them: `all`, nnU-Net's grid over the image; `body`, the same grid over the body; `center_first`, the
grid over the image, of which a slab is computed only if its central window holds foreground (the paper's rule).
Shapes and positions are (z, y, x) in voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F

from flare23_lib.axes import Slices, as_triple
from flare23_lib.inference.body_mask import Body

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
    """
    starts = []
    for size, window in zip(shape, patch, strict=True):
        last = size - window
        gaps = math.ceil(last / (window * step))
        spacing = last / gaps if gaps else 0.0
        starts.append([round(spacing * index) for index in range(gaps + 1)])
    return starts


def window_slices(starts: Sequence[Sequence[int]], patch: Sequence[int]) -> list[Slices]:
    """Return the box of every window, z outermost, x innermost."""
    return [
        as_triple(slice(start, start + size) for start, size in zip(corner, patch, strict=True))
        for corner in product(*starts)
    ]


def importance_map(patch: Sequence[int]) -> torch.Tensor:
    """Return the float32 weight of each voxel of a window: a Gaussian around its center, 1 at the top, never 0.

    That of nnU-Net's `compute_gaussian`: the center of an axis of n voxels is voxel n // 2, sigma is n / 8.
    """
    weights = torch.ones((), dtype=torch.float64)
    for size in patch:
        distance = torch.arange(size, dtype=torch.float64) - size // 2
        axis = torch.exp(-0.5 * (distance / (size * SIGMA_SCALE)) ** 2)
        weights = weights[..., None] * axis
    return weights.float()


def pad_to_patch(image: torch.Tensor, patch: Sequence[int]) -> tuple[torch.Tensor, Slices]:
    """Pad an image (z, y, x) with zeros, equally on both sides, until no axis is shorter than the patch.

    An odd rest goes to the upper end, as in nnU-Net. Zero is the mean of a normalized image, so padding comes
    after normalization.

    Returns:
        The padded image and the box that the image occupies in it.
    """
    missing = [max(0, window - size) for window, size in zip(patch, image.shape, strict=True)]
    below = [gap // 2 for gap in missing]
    box = as_triple(slice(start, start + size) for start, size in zip(below, image.shape, strict=True))
    if not any(missing):
        return image, box
    # F.pad counts axes from the last to the first.
    widths = [width for gap, low in zip(missing[::-1], below[::-1], strict=True) for width in (low, gap - low)]
    return F.pad(image, widths), box


@dataclass(frozen=True)
class WindowSlab:
    """The windows (their boxes) that start at one slice.

    With `probe` the first one is computed alone, and the others only if it holds foreground.
    """

    start: int
    windows: tuple[Slices, ...]
    probe: bool = False


def all_windows(shape: Sequence[int], patch: Sequence[int], step: float) -> list[WindowSlab]:
    """Lay windows over all of an image that is at least as large as the patch (z, y, x)."""
    depth, *plane = window_starts(shape, patch, step)
    return [WindowSlab(start, tuple(window_slices([[start], *plane], patch))) for start in depth]


def center_first_windows(shape: Sequence[int], patch: Sequence[int], step: float) -> list[WindowSlab]:
    """Lay windows as `all_windows`; in each slab the one nearest to the image's center decides about the others."""

    def distance(window: Slices) -> float:
        """Squared distance, in the plane and in patches, of a window's center from the image's."""
        return sum(
            ((part.start + part.stop - size) / extent) ** 2
            for part, size, extent in zip(window[1:], shape[1:], patch[1:], strict=True)
        )

    return [
        WindowSlab(slab.start, tuple(sorted(slab.windows, key=distance)), probe=True)
        for slab in all_windows(shape, patch, step)
    ]


def body_windows(
    shape: Sequence[int], patch: Sequence[int], step: float, body: Body, offset: Sequence[int]
) -> list[WindowSlab]:
    """Lay windows over the body: slabs over its extent in z, and in each slab windows over its extent there.

    Every voxel of the mask lies in a slab, in that slab's extent, and so in a window of the slab's grid; a window
    is left out only if it holds no voxel of the mask.

    The shape, (z, y, x), is that of the padded image, at least as large as the patch. The body is in indices of the
    image before padding, which begins at `offset` in the padded one. `step` is as in `window_starts`.
    """
    slabs = []
    for start in _starts(body, 0, shape, patch, step, offset):
        slab = slice(start - offset[0], start - offset[0] + patch[0])
        there = body.within((slab, slice(0, body.shape[1]), slice(0, body.shape[2])))
        if there is None:
            continue
        plane = [_starts(there, axis, shape, patch, step, offset) for axis in (1, 2)]
        windows = tuple(
            window
            for window in window_slices([[start], *plane], patch)
            if there.touches([slice(p.start - low, p.stop - low) for p, low in zip(window, offset, strict=True)])
        )
        slabs.append(WindowSlab(start, windows))
    return slabs


def _starts(
    body: Body, axis: int, shape: Sequence[int], patch: Sequence[int], step: float, offset: Sequence[int]
) -> list[int]:
    """Return where windows start along an axis so that they cover the body's extent and stay in the image.

    If that takes no fewer windows than the whole image, they lie as they do over the whole image.
    """
    (whole,) = window_starts([shape[axis]], [patch[axis]], step)
    low, high = (index + offset[axis] for index in body.extent(axis))
    if high - low < patch[axis]:
        return [min(max(0, (low + high - patch[axis]) // 2), shape[axis] - patch[axis])]
    (starts,) = window_starts([high - low], [patch[axis]], step)
    return whole if len(starts) == len(whole) else [low + start for start in starts]
