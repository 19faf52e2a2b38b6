"""Dice coefficient (DSC) and normalized surface Dice (NSD) of one case, for all labels at once.

Arrays are (z, y, x) volumes of file values, spacings are (z, y, x) in mm. The NSD is the surface
Dice at a tolerance (see `surfaces`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from flare23_lib.choices import EvaluationMode
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.surfaces import surface_dice
from flare23_lib.labels import LabelMap

MODES: tuple[EvaluationMode, ...] = get_args(EvaluationMode)
"""Scoring by the rules of the FLARE23 challenge, or of whole volumes without special rules."""

MIN_DSC_FOR_NSD = 0.2
"""In mode "flare23" a lower DSC makes the NSD 0: as in the challenge's script since March 2024."""

PUBLISHED_MIN_DSC_FOR_NSD = 0.1
"""The limit in the script until then, and so behind FLARE23's published results (docs/evaluation.md)."""


@dataclass(frozen=True)
class Score:
    """Agreement of one structure in one case: DSC and NSD at the label's tolerance, 0 to 1, not rounded."""

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
    """Return the scores of one case by label name, in the order of the map.

    Both modes: a structure that neither volume holds has DSC = NSD = 1, one that only one of them
    holds has 0.

    Mode "flare23" adds the rules of the challenge's script. Labels with `scored="reference_slices"`
    that both volumes hold are scored from the first slice in which the reference holds them up to,
    but not including, the last one; the cut ends count as surface. With a single such slice the
    script fails on an empty volume; here that slice is scored. A DSC below `min_dsc_for_nsd` makes
    the NSD 0. (The script rounds to 4 decimals; that is done where tables are written.)

    Args:
        reference: integer file values, (z, y, x).
        prediction: integer file values, same shape.
        spacing: (z, y, x) in mm: the float32 of the reference's header, not rounded. A rounded
            spacing moves distances across the tolerance.
        labels: the structures, with their tolerances.
        mode: one of `MODES`.
        min_dsc_for_nsd: lowest DSC, 0 to 1, with which a structure has an NSD in mode "flare23".

    Raises:
        EvaluationError: the shapes differ, a value is not in the label map, or the mode is unknown.
    """
    check_mode(mode)
    shape = reference.shape
    if len(shape) != 3 or prediction.shape != shape:
        raise EvaluationError(f"a prediction of shape {prediction.shape} does not fit a reference of {shape}")
    reference = as_uint8(reference, labels, "reference")
    prediction = as_uint8(prediction, labels, "prediction")
    counts = _joint_counts(reference, prediction, labels)
    scores, regions = {}, {}
    for index, label in enumerate(labels.labels, start=1):
        in_slice = counts[:, index, :].any(axis=1)
        present, predicted = bool(in_slice.any()), bool(counts[:, :, index].any())
        if not (present and predicted):
            scores[label.name] = Score(dsc=float(present == predicted), nsd=float(present == predicted))
            continue
        start, stop = 0, len(counts)
        if mode == "flare23" and label.scored == "reference_slices":
            start, last = np.flatnonzero(in_slice)[[0, -1]].tolist()
            stop = max(last, start + 1)
        part = counts[start:stop]
        total = part[:, index, :].sum() + part[:, :, index].sum()
        dsc = float(2 * part[:, index, index].sum() / total)
        scores[label.name] = Score(dsc=dsc, nsd=0.0)
        if mode == "plain" or dsc >= min_dsc_for_nsd:
            regions[label.name] = (start, stop)
    with_surface = [label for label in labels.labels if label.name in regions]
    for name, nsd in surface_dice(reference, prediction, spacing, with_surface, regions).items():
        scores[name] = Score(scores[name].dsc, nsd)
    return scores


def check_mode(mode: str) -> None:
    """Raise EvaluationError if there is no such mode."""
    if mode not in MODES:
        raise EvaluationError(f"there is no evaluation mode {mode!r}; use {' or '.join(MODES)}")


def as_uint8(volume: np.ndarray, labels: LabelMap, side: str) -> np.ndarray:
    """Return a label volume as contiguous uint8, without a copy where possible.

    Raises:
        EvaluationError: a value of the side, "reference" or "prediction", is not a whole number, or
            neither 0 nor in the label map.
    """
    if volume.dtype.kind not in "iub":
        raise EvaluationError(f"the {side} holds {volume.dtype}, not whole numbers")
    unknown = sorted(set(values_in(volume)) - {0, *labels.values})
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        raise EvaluationError(f"the {side} holds values that are not in the label map: {shown}")
    return np.ascontiguousarray(volume, dtype=np.uint8)


def values_in(volume: np.ndarray) -> list[int]:
    """Return the values of a label volume, sorted: those where its long runs of equal voxels begin."""
    flat = volume.ravel()
    heads = np.concatenate([flat[:1], flat[1:][flat[1:] != flat[:-1]]])
    return [int(value) for value in np.unique(heads)]


def _joint_counts(reference: np.ndarray, prediction: np.ndarray, labels: LabelMap) -> np.ndarray:
    """Count voxels by slice, reference index and prediction index: (z, labels + 1, labels + 1), int64.

    Runs of equal voxels are counted, not voxels.
    """
    kinds = len(labels.labels) + 1
    index_of = np.zeros(256, dtype=np.int64)
    index_of[labels.values] = np.arange(1, kinds)
    counts = np.zeros((len(reference), kinds, kinds), dtype=np.int64)
    for z in range(len(reference) if reference.size else 0):
        first, second = reference[z].ravel(), prediction[z].ravel()
        changes = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        heads = np.concatenate(([0], np.flatnonzero(changes) + 1))
        lengths = np.diff(heads, append=first.size)
        pairs = index_of[first[heads]] * kinds + index_of[second[heads]]
        counts[z] = np.bincount(pairs, weights=lengths, minlength=kinds * kinds).reshape(kinds, kinds)
    return counts
