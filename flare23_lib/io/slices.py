"""Whether slices lie on one grid: gaps, doubled slices, tilted stacks. Positions are (n, 3) in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flare23_lib.errors import ImageError

SAME_PLACE_MM = 0.01
"""Slices nearer to each other lie at the same place."""

SAME_DIRECTION = 1e-3
"""Largest difference of direction cosines within one volume."""

TOLERANCE_MM, TOLERANCE_SHARE = 0.02, 0.02
"""How far a slice may be from its place on the grid: so many mm, or this share of the slices' distance."""

ROUNDED_MM, MIN_ROUNDED_STEP_MM = 0.1, 0.5
"""Where all positions are rounded to the first, as some scanners do, and slices have this distance or more, it is the
tolerance: a slice, and the ends of the grid, are off by half of it."""

MIN_TILT_DEGREES = 0.1


@dataclass(frozen=True)
class SliceGrid:
    """Equally spaced slices.

    Attributes:
        origin: position of the first slice.
        step: from a slice to the next; not along the normal if the stack is tilted.
        tilt_degrees: angle between step and normal; 0 for an upright stack.
        places: where the given slices lie on the grid, in steps, ascending; None if each is at its own.
    """

    origin: np.ndarray
    step: np.ndarray
    count: int
    tilt_degrees: float = 0.0
    places: np.ndarray | None = None


def place_tolerance(positions: np.ndarray, distance: float) -> float:
    """Return how far slices, and frames of segmentations of them, may be from their places, in mm.

    Args:
        positions: of the slices, (n, 3).
        distance: median of neighboring slices, mm.
    """
    tolerance = max(TOLERANCE_MM, TOLERANCE_SHARE * distance)
    if distance >= MIN_ROUNDED_STEP_MM and np.array_equal(positions, positions.round(1)):
        tolerance = max(tolerance, ROUNDED_MM + 1e-6)
    return tolerance


def grid_of(positions: np.ndarray, normal: np.ndarray, names: Sequence[str], irregular: str = "refuse") -> SliceGrid:
    """Return the grid on which slices lie.

    Positions ascend along the normal of the slices' planes, which has length 1; names are for messages. `irregular`
    is "refuse", or "resample" for a grid of the median distance between the first and the last slice.

    Raises:
        ImageError: slices at one place, missing or irregular ones (unless they are to be resampled), or slices that
            are shifted against each other in their planes.
    """
    heights = positions @ normal
    distances = np.diff(heights)
    if distances.min() < SAME_PLACE_MM:
        at = int(np.argmin(distances))
        count = int((distances < SAME_PLACE_MM).sum())
        more = f" (and {count - 1} more pairs; several acquisitions in one series?)" if count > 1 else ""
        raise ImageError(f"{names[at]} and {names[at + 1]} lie at the same place, {heights[at]:.2f} mm{more}")
    median = float(np.median(distances))
    tolerance = place_tolerance(positions, median)
    span = positions[-1] - positions[0]
    expected = positions[0] + np.outer((heights - heights[0]) / (heights[-1] - heights[0]), span)
    shifts = np.linalg.norm(positions - expected, axis=1)
    if shifts.max() > tolerance:
        at = int(np.argmax(shifts))
        raise ImageError(f"{names[at]} is shifted in its plane by {shifts[at]:.2f} mm against the other slices")
    count = len(positions)
    places = (heights - heights[0]) / (heights[-1] - heights[0]) * (count - 1)
    off = np.abs(places - np.arange(count)) * (heights[-1] - heights[0]) / (count - 1)
    if off.max() > tolerance:
        if irregular != "resample":
            raise ImageError(_gap(distances, heights, median, names))
        count = round((heights[-1] - heights[0]) / median) + 1
        places = (heights - heights[0]) / (heights[-1] - heights[0]) * (count - 1)
    else:
        places = None
    step = span / (count - 1)
    cosine = np.clip(step @ normal / np.linalg.norm(step), -1, 1)
    tilt = float(np.degrees(np.arccos(cosine)))
    return SliceGrid(positions[0], step, count, tilt if tilt >= MIN_TILT_DEGREES else 0.0, places)


def _gap(distances: np.ndarray, heights: np.ndarray, median: float, names: Sequence[str]) -> str:
    """Return in a line what is irregular."""
    at = int(np.argmax(np.abs(distances - median)))
    between = f"between {names[at]} at {heights[at]:.2f} mm and {names[at + 1]} at {heights[at + 1]:.2f} mm"
    steps = distances[at] / median
    others = int((np.abs(distances - median) > TOLERANCE_SHARE * median).sum()) - 1
    more = f", {others} more distances differ" if others > 0 else ""
    remedy = "; --irregular resample interpolates"
    if round(steps) >= 2 and abs(steps - round(steps)) < 0.1:
        return f"{round(steps) - 1} slices are missing {between} (others are {median:.4g} mm apart){more}{remedy}"
    return f"slices are not equally spaced: {distances[at]:.4g} mm {between}, median {median:.4g} mm{more}{remedy}"


def resampled_along_normal(array: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """Interpolate slices linearly onto their grid, (slices, rows, columns); values keep their type."""
    places = grid.places
    if places is None:
        return array
    made = np.empty((grid.count, *array.shape[1:]), array.dtype)
    for index in range(grid.count):
        above = int(np.clip(np.searchsorted(places, index), 1, len(places) - 1))
        weight = np.clip((index - places[above - 1]) / (places[above] - places[above - 1]), 0, 1)
        mixed = (1 - weight) * array[above - 1].astype(np.float64) + weight * array[above]
        made[index] = mixed if array.dtype.kind == "f" else np.rint(mixed)
    return made
