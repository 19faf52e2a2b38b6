"""Predicted tumors as wholes: which of them nobody marked, and how sure the teacher is of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flare23_lib.pseudo_labels.small_components import CONNECTIVITY, box_of


@dataclass(frozen=True)
class PredictedTumor:
    """A connected component of predicted tumor voxels.

    Attributes:
        voxels: indices (n, 3) in (z, y, x).
        certainty: share of the teacher's passes that say so, averaged over the voxels; None if that is not known.
    """

    voxels: np.ndarray
    certainty: float | None


def find_tumors(
    predicted: np.ndarray, marked: np.ndarray | None = None, agreement: np.ndarray | None = None, passes: int = 1
) -> Iterator[PredictedTumor]:
    """Give the predicted tumors that touch no marked one.

    Components are connected through faces, edges and corners. One that overlaps or touches a marked tumor is a
    prediction of that tumor, whose border was drawn by a person.

    Args:
        predicted: bool (z, y, x).
        marked: bool, same shape: tumors of the original labels; None if there are none.
        agreement: same shape, how many of the passes say what their mean says; None if it is not known.
        passes: how many there are.
    """
    box = box_of(predicted, margin=1)
    if box is None:
        return
    inside = predicted[box]
    together = inside if marked is None else inside | marked[box]
    components, count = ndimage.label(together, structure=CONNECTIVITY)
    touched = np.zeros(count + 1, dtype=bool)
    if marked is not None:
        touched[components[marked[box]]] = True
    origin = [part.start for part in box]
    for number, part in enumerate(ndimage.find_objects(components), start=1):
        if touched[number]:
            continue
        local = np.argwhere(components[part] == number)
        voxels = local + [side.start + start for side, start in zip(part, origin, strict=True)]
        certainty = None if agreement is None else float(agreement[tuple(voxels.T)].mean() / passes)
        yield PredictedTumor(voxels, certainty)
