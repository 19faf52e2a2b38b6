"""Connected components of pseudo-labels, and those too small to be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from flare23_lib.axes import Slices, as_triple

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner are connected."""


def box_of(mask: np.ndarray, margin: int = 0) -> Slices | None:
    """Return the smallest box of a bool volume (z, y, x) around what is set, with a margin; None if nothing is."""
    sides = []
    for axis in range(3):
        there = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not there.size:
            return None
        sides.append(slice(max(0, there[0] - margin), min(mask.shape[axis], there[-1] + 1 + margin)))
    return as_triple(sides)


def remove_small_components(
    labels: np.ndarray, least_volume_ml: Mapping[int, float], spacing: Sequence[float]
) -> tuple[np.ndarray, dict[int, int]]:
    """Make background of components below their class's volume.

    Args:
        labels: uint8 (z, y, x) label values.
        least_volume_ml: label value -> least volume of a component in mL; classes without one are left alone.
        spacing: (z, y, x) in mm.

    Returns:
        The labels, a copy if anything was dropped; and label value -> voxels dropped, of the classes that lost any.
    """
    voxel_ml = math.prod(spacing) / 1000
    boxes = ndimage.find_objects(labels)
    result, dropped = labels, {}
    for value, least in sorted(least_volume_ml.items()):
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            continue
        components, _ = ndimage.label(labels[box] == value, structure=CONNECTIVITY)
        sizes = np.bincount(components.ravel())
        small = sizes * voxel_ml < least
        small[0] = False
        if small.any():
            result = labels.copy() if result is labels else result
            result[box][small[components]] = 0
            dropped[value] = int(sizes[small].sum())
    return result, dropped
