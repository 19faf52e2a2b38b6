"""Merging original annotations and predictions: originals win.

Every voxel falls into exactly one outcome, so the counts of a case add up to its volume.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from flare23_lib.errors import MergeError
from flare23_lib.images import Geometry
from flare23_lib.labels import IGNORE_VALUE

VERSION = 1
"""Raised when the same inputs would merge to something else."""

OUTCOMES = ("agreed", "kept", "dropped", "taken", "tumor_inside")
"""What can become of a voxel with an original or a predicted label; see `merge`."""


@dataclass(frozen=True)
class Merged:
    """A completed label map and what became of its voxels.

    Attributes:
        labels: uint8 (z, y, x); 255 where training is to pass over.
        background: voxels that neither side labels.
        counts: outcome -> label value -> voxels; the value is the original's for agreed, kept and tumor_inside, the
            prediction's for dropped and taken.
    """

    labels: np.ndarray
    background: int
    counts: dict[str, dict[int, int]]


def merge(
    original: np.ndarray,
    predicted: np.ndarray,
    annotated: Collection[int],
    tumors: Collection[int] = (),
    dropped_to: str = "background",
    tumor_inside_organs: str = "keep_organ",
    next_class: np.ndarray | None = None,
) -> Merged:
    """Complete an original label map with a prediction.

    Outcomes, voxel by voxel:

    - *agreed*, *kept*: the voxel has an original label; it keeps it, whether the prediction agrees or not.
    - *tumor_inside*: of these, a tumor is predicted inside an annotated organ, in a case whose tumors are not
      annotated; `tumor_inside_organs` decides.
    - *dropped*: no original label, and the prediction is of a class that is annotated in this case, hence known not
      to be there; `dropped_to` decides.
    - *taken*: no original label, and the prediction is of a class that is not annotated.

    Args:
        original: uint8 (z, y, x) label values, 0 where nothing is annotated.
        predicted: uint8 label values of the same shape.
        annotated: label values that count as annotated in this case.
        tumors: label values that are tumors.
        dropped_to: "background", "next_class" (then `next_class` is needed) or "ignore".
        tumor_inside_organs: "keep_organ", "ignore" or "tumor".
        next_class: the prediction's best classes when those annotated may not win, same shape.

    Raises:
        MergeError: different shapes, or an option that is none.
    """
    if original.shape != predicted.shape:
        raise MergeError(f"the original is {original.shape}, the prediction {predicted.shape}")
    if dropped_to not in ("background", "next_class", "ignore"):
        raise MergeError(f"dropped_to {dropped_to!r} is not background, next_class or ignore")
    if tumor_inside_organs not in ("keep_organ", "ignore", "tumor"):
        raise MergeError(f"tumor_inside_organs {tumor_inside_organs!r} is not keep_organ, ignore or tumor")
    if dropped_to == "next_class" and (next_class is None or next_class.shape != original.shape):
        raise MergeError("dropped_to next_class needs the next classes of every voxel")

    is_annotated = _table(annotated)
    is_open_tumor = _table(set(tumors) - set(annotated))
    has_original = original != 0
    agreed = has_original & (original == predicted)
    organ = has_original & ~_table({*tumors, IGNORE_VALUE})[original]
    tumor_inside = organ & is_open_tumor[predicted]
    dropped = ~has_original & is_annotated[predicted]
    taken = ~has_original & ~dropped & (predicted != 0)

    labels = np.where(has_original, original, predicted)
    if tumor_inside_organs == "ignore":
        labels[tumor_inside] = IGNORE_VALUE
    elif tumor_inside_organs == "tumor":
        labels[tumor_inside] = predicted[tumor_inside]
    if dropped_to == "next_class":
        labels[dropped] = next_class[dropped]
    else:
        labels[dropped] = IGNORE_VALUE if dropped_to == "ignore" else 0

    counts = {
        "agreed": _count(original[agreed]),
        "kept": _count(original[has_original & ~agreed & ~tumor_inside]),
        "tumor_inside": _count(original[tumor_inside]),
        "dropped": _count(predicted[dropped]),
        "taken": _count(predicted[taken]),
    }
    background = int(labels.size - sum(sum(rows.values()) for rows in counts.values()))
    return Merged(labels, background, counts)


def check_geometry(original: Geometry, predicted: Geometry) -> None:
    """Raise MergeError if two label maps do not lie on each other."""
    if difference := original.difference(predicted):
        raise MergeError(f"labels of different geometry cannot be merged: {difference}")


def _table(values: Collection[int]) -> np.ndarray:
    table = np.zeros(256, dtype=bool)
    table[list(values)] = True
    return table


def _count(values: np.ndarray) -> dict[int, int]:
    counts = np.bincount(values, minlength=1)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
