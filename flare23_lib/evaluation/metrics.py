"""Dice coefficient (DSC) and normalized surface Dice (NSD) of one case, for all labels at once.

Arrays are (z, y, x) volumes of file values, spacings (z, y, x) in mm. The NSD is the surface Dice at a tolerance
(see `surfaces`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from flare23_lib.choices import EvaluationMode
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.surfaces import surface_dice
from flare23_lib.labels import LabelMap

MODES = get_args(EvaluationMode)
"""How to score: by the rules of the FLARE23 challenge, or whole volumes without exception."""

MIN_DSC_FOR_NSD = 0.2
"""In "flare23" mode a structure with a lower DSC has an NSD of 0: as in the challenge's script since March 2024."""

PUBLISHED_MIN_DSC_FOR_NSD = 0.1
"""The limit in the script until then, and so behind FLARE23's published results (docs/evaluation.md)."""


@dataclass(frozen=True)
class Score:
    """Agreement of one structure in one case, not rounded.

    Attributes:
        dsc: Dice similarity coefficient, 0 to 1.
        nsd: normalized surface Dice at the label's tolerance, 0 to 1.
    """

    dsc: float
    nsd: float


def score_case(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, float, float],
    labels: LabelMap,
    mode: str = "flare23",
    min_dsc_for_nsd: float = MIN_DSC_FOR_NSD,
) -> dict[str, Score]:
    """Score one case.

    Both modes: a structure that neither volume holds has DSC = NSD = 1, one that only one of them holds has 0.

    Mode "flare23" adds the rules of the challenge's script. Labels with `scored="reference_slices"` that both
    volumes hold are scored from the first slice in which the reference holds them up to, but not including, the
    last one; the cut ends count as surface. With a single such slice the script fails on an empty volume; here
    that slice is scored. A DSC below `min_dsc_for_nsd` makes the NSD 0. (The script rounds to 4 decimals; that is
    done where tables are written.)

    Args:
        reference: integer file values, (z, y, x).
        prediction: integer file values, same shape.
        spacing: (z, y, x) in mm: the float32 of the reference's header as it is. A rounded spacing moves
            distances across the tolerance.
        labels: the structures, with their tolerances.
        mode: one of `MODES`.
        min_dsc_for_nsd: lowest DSC, 0 to 1, with which a structure has an NSD in mode "flare23".

    Returns:
        A score per label name, in the order of the map.

    Raises:
        EvaluationError: the shapes differ, a value is not in the label map, or there is no such mode.
    """
    check_mode(mode)
    if reference.ndim != 3 or reference.shape != prediction.shape:
        raise EvaluationError(
            f"a prediction of shape {prediction.shape} does not fit a reference of {reference.shape}"
        )
    reference = _as_bytes(reference, labels, "reference")
    prediction = _as_bytes(prediction, labels, "prediction")
    counts = _joint_counts(reference, prediction, labels)
    scores, dscs, regions = {}, {}, {}
    for index, label in enumerate(labels.labels, start=1):
        present = counts[:, index, :].any(axis=1)
        predicted = bool(counts[:, :, index].any())
        if not (present.any() and predicted):
            agreement = float(present.any() == predicted)
            scores[label.name] = Score(dsc=agreement, nsd=agreement)
            continue
        start, stop = 0, len(counts)
        if mode == "flare23" and label.scored == "reference_slices":
            start, stop = _reference_slices(present)
        part = counts[start:stop]
        total = part[:, index, :].sum() + part[:, :, index].sum()
        dscs[label.name] = float(2 * part[:, index, index].sum() / total)
        if mode == "plain" or dscs[label.name] >= min_dsc_for_nsd:
            regions[label.name] = (start, stop)
    wanted = [label for label in labels.labels if label.name in regions]
    nsds = surface_dice(reference, prediction, spacing, wanted, regions)
    scores |= {name: Score(dsc=dsc, nsd=nsds.get(name, 0.0)) for name, dsc in dscs.items()}
    return {name: scores[name] for name in labels.names}


def check_mode(mode: str) -> None:
    """Raise EvaluationError if there is no such mode."""
    if mode not in MODES:
        raise EvaluationError(f"there is no evaluation mode {mode!r}; use {' or '.join(MODES)}")


def _reference_slices(present: np.ndarray) -> tuple[int, int]:
    """Return the slices [start, stop) that the official script scores: the last one that holds it is left out."""
    slices = np.flatnonzero(present)
    first, last = int(slices[0]), int(slices[-1])
    return first, max(last, first + 1)


# Counting


def _as_bytes(values: np.ndarray, labels: LabelMap, side: str) -> np.ndarray:
    """Return a contiguous uint8 copy or view; EvaluationError for values that no byte holds."""
    if values.dtype != np.uint8:
        if values.dtype.kind not in "iub":
            raise EvaluationError(f"the {side} holds {values.dtype}, not whole numbers")
        if values.size and (values.min() < 0 or values.max() > 255):
            raise unknown_values_error(values, labels, side)
        values = values.astype(np.uint8)
    return np.ascontiguousarray(values)


def unknown_values(volume: np.ndarray, labels: LabelMap) -> list[int]:
    """Return the values of a volume that are neither background nor in the label map, sorted."""
    return sorted({int(value) for value in np.unique(volume)} - {0, *labels.values})


def unknown_values_error(volume: np.ndarray, labels: LabelMap, side: str) -> EvaluationError:
    """Return the error that names them; `side` is "reference" or "prediction"."""
    unknown = unknown_values(volume, labels)
    shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
    return EvaluationError(f"the {side} holds values that are not in the label map: {shown}")


def _joint_counts(reference: np.ndarray, prediction: np.ndarray, labels: LabelMap) -> np.ndarray:
    """Count voxels by slice, reference index and prediction index: (z, labels + 1, labels + 1), int64.

    Label maps are long runs of equal voxels, so runs are counted, not voxels.
    """
    kinds = len(labels.labels) + 2  # background, the labels, and one for what is not in the map
    index_of = np.full(256, kinds - 1)
    index_of[[0, *labels.values]] = np.arange(kinds - 1)
    depth, *plane = reference.shape
    counts = np.zeros((depth, kinds, kinds), dtype=np.int64)
    if 0 in plane:
        return counts[:, :-1, :-1]
    for z in range(depth):
        first, second = reference[z].ravel(), prediction[z].ravel()
        changes = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        heads = np.concatenate(([0], np.flatnonzero(changes) + 1))
        lengths = np.diff(heads, append=first.size)
        pairs = index_of[first[heads]] * kinds + index_of[second[heads]]
        counts[z] = np.bincount(pairs, weights=lengths, minlength=kinds * kinds).reshape(kinds, kinds)
    for side, volume, unknown in (
        ("reference", reference, counts[:, -1, :]),
        ("prediction", prediction, counts[:, :, -1]),
    ):
        if unknown.any():
            raise unknown_values_error(volume, labels, side)
    return counts[:, :-1, :-1]
