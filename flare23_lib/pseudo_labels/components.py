"""Connected components of pseudo-labels: those too small to be believed, and predicted tumors as wholes.

Voxels that share a face, an edge or a corner are connected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from flare23_lib.axes import CONNECTIVITY


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
    boxes = scipy.ndimage.find_objects(labels)
    result, dropped = labels, {}
    for value, least in sorted(least_volume_ml.items()):
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            continue
        components, _ = scipy.ndimage.label(labels[box] == value, structure=CONNECTIVITY)
        sizes = np.bincount(components.ravel())
        small = sizes * voxel_ml < least
        small[0] = False
        if small.any():
            result = labels.copy() if result is labels else result
            result[box][small[components]] = 0
            dropped[value] = int(sizes[small].sum())
    return result, dropped


@dataclass(frozen=True)
class Votes:
    """How many of a teacher's mirrored passes say at each voxel what their mean says: a count, uint8 (z, y, x)."""

    count: np.ndarray
    passes: int


def find_tumors(
    predicted: np.ndarray, marked: np.ndarray | None, votes: Votes | None
) -> Iterator[tuple[tuple[np.ndarray, ...], float]]:
    """Give the predicted tumors that touch no marked one, and how certain the teacher is of each.

    One that overlaps or touches a marked tumor is a prediction of that tumor, whose border was drawn by hand.

    Args:
        predicted: bool (z, y, x).
        marked: bool, same shape: tumors of the original labels; None if there are none.
        votes: of the teacher's passes, same shape; None if they are not known.

    Returns:
        For each the indices (z, y, x) of its voxels, and the share of the passes that agree, averaged over the
        voxels; 0 without votes.
    """
    found = scipy.ndimage.find_objects(predicted.view(np.uint8), max_label=1)[0]
    if found is None:
        return
    box = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in found)
    together = predicted[box] if marked is None else predicted[box] | marked[box]
    components, count = scipy.ndimage.label(together, structure=CONNECTIVITY)
    touched = np.zeros(count + 1, dtype=bool)
    if marked is not None:
        touched[components[marked[box]]] = True
    for number, part in enumerate(scipy.ndimage.find_objects(components), start=1):
        if touched[number]:
            continue
        local = np.nonzero(components[part] == number)
        place = tuple(
            index + inside.start + outside.start for index, inside, outside in zip(local, part, box, strict=True)
        )
        yield place, 0.0 if votes is None else float(votes.count[place].mean() / votes.passes)
