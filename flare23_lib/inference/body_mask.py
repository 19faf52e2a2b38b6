"""Where the body is, at a few millimeters: what windows have to cover. Air and table may be omitted.

The mask is made to err outwards. A voxel that the threshold misses (lung, gas, air in a fold) lies between two that
it finds in its row or its column of the slice, and is filled; what is filled includes every hole inside the skin. The
table is thin where the body is not: an opening takes it away, and what the opening took from the body's own corners
is given back near what is left. At last the mask is grown on all sides, by more than the coarse grid can miss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flare23_lib.axes import Spacing, Triple, as_triple

GRID_MM = 4.0
"""The coarse grid: every n-th voxel of an axis, n so that they are about this far apart."""

THRESHOLD_HU = -500
"""Halfway between air (-1000) and fat or skin (-100 to 50)."""

OPENING_MM = 8.0
"""What is thinner than twice this in a slice is not body: a table's top, a blanket, cables."""

RECOVERY_MM = 40.0
"""How far from what the opening left thin parts that hang on to it are taken back, in any direction."""

MARGIN_MM = 12.0
"""By how much the mask is grown in the end."""


@dataclass(frozen=True)
class Body:
    """A coarse mask of the body, in indices of an image.

    Attributes:
        mask: bool (z, y, x), coarse.
        cells: cells of the mask per voxel of the image, by axis.
        shape: (z, y, x) of the image.
    """

    mask: np.ndarray
    cells: Spacing
    shape: Triple

    def within(self, box: Sequence[slice]) -> Body | None:
        """Return the body cut to the cells that a box touches; None if there is none."""
        cut = tuple(self._cells(axis, part) for axis, part in enumerate(box))
        inside = np.zeros_like(self.mask)
        inside[cut] = self.mask[cut]
        return Body(inside, self.cells, self.shape) if inside.any() else None

    def touches(self, box: Sequence[slice]) -> bool:
        """Return whether there is body in a box."""
        return bool(self.mask[tuple(self._cells(axis, part) for axis, part in enumerate(box))].any())

    def extent(self, axis: int) -> tuple[int, int]:
        """Return the first index of an axis at which there may be body, and the one after the last."""
        others = tuple(other for other in range(3) if other != axis)
        there = np.flatnonzero(self.mask.any(axis=others))
        first, last = there[0] / self.cells[axis], (there[-1] + 1) / self.cells[axis]
        return math.floor(first), min(self.shape[axis], math.ceil(last))

    def _cells(self, axis: int, part: slice) -> slice:
        low, high = max(0, part.start), max(0, part.stop)
        return slice(math.floor(low * self.cells[axis]), math.ceil(high * self.cells[axis]))


def find_body(array: np.ndarray, spacing: Sequence[float], shape: Sequence[int]) -> Body | None:
    """Find the body in a CT, an array (z, y, x) in HU, with its spacing (z, y, x) in mm.

    The mask is in indices of the resampled image of the given shape (z, y, x). None if nothing in the image is as
    dense and as thick as a body.
    """
    stride = as_triple(max(1, round(GRID_MM / size)) for size in spacing)
    places = [np.minimum(np.arange(0, size, step) + step // 2, size - 1)
              for size, step in zip(array.shape, stride, strict=True)]  # fmt: skip
    dense = array[np.ix_(*places)] > THRESHOLD_HU
    grid = [size * step for size, step in zip(spacing, stride, strict=True)]
    core = _opened(dense, grid)
    if not core.any():
        return None
    for _ in range(math.ceil(RECOVERY_MM / min(grid))):
        core = _grown(core, (1, 1, 1)) & dense
    margin = [math.ceil(MARGIN_MM / size) for size in grid]
    cells = as_triple(size / new / step for size, new, step in zip(array.shape, shape, stride, strict=True))
    return Body(_grown(_filled(core), margin), cells, as_triple(shape))


def _opened(mask: np.ndarray, grid: Sequence[float]) -> np.ndarray:
    """Take away what is thin in the slice; the body is taken to continue beyond the image's edge."""
    reach = (0, *(int(OPENING_MM / size) for size in grid[1:]))
    return _grown(~_grown(~mask, reach), reach) & mask


def _filled(mask: np.ndarray) -> np.ndarray:
    """Fill each row and each column of a slice between its first and its last voxel."""
    filled = np.zeros_like(mask)
    for axis in (1, 2):
        since = np.logical_or.accumulate(mask, axis=axis)
        until = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis=axis), axis)
        filled |= since & until
    return filled


def _grown(mask: np.ndarray, reach: Sequence[int]) -> np.ndarray:
    """Grow a mask by a number of voxels along each axis (a box)."""
    for axis, count in enumerate(reach):
        grown = mask.copy()
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(grown, axis, 0)
        for shift in range(1, min(count, len(source) - 1) + 1):
            target[shift:] |= source[:-shift]
            target[:-shift] |= source[shift:]
        mask = grown
    return mask
