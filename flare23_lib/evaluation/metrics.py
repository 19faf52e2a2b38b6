"""Scores of one case: Dice coefficient (DSC) and normalized surface Dice (NSD), and what else `METRICS` has.

Arrays are (z, y, x) volumes of file values, spacings are (z, y, x) in mm. The NSD is the surface
Dice at a tolerance (see `surfaces`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flare23_lib.axes import Spacing
from flare23_lib.choices import EvaluationMode
from flare23_lib.dataset.image_info import value_counts
from flare23_lib.errors import EvaluationError, listed
from flare23_lib.evaluation.surfaces import Region, surface_dice
from flare23_lib.labels import Label, LabelMap

MIN_DSC_FOR_NSD = 0.2
"""In mode "flare23" a lower DSC makes the NSD 0: as in the challenge's script since March 2024."""

PUBLISHED_MIN_DSC_FOR_NSD = 0.1
"""The limit in the script until then, and so behind FLARE23's published results (docs/evaluation.md)."""


@dataclass(frozen=True)
class Comparison:
    """Reference and prediction of one case: what a metric measures.

    Attributes:
        reference: uint8 file values, (z, y, x).
        prediction: the same, of the same shape.
        spacing: (z, y, x) in mm.
        labels: the structures, with their tolerances.
        mode: "flare23", the challenge's rules, or "plain", whole volumes without special rules.
        min_dsc_for_nsd: lowest DSC, 0 to 1, with which a structure has an NSD in mode "flare23".
    """

    reference: np.ndarray
    prediction: np.ndarray
    spacing: Spacing
    labels: LabelMap
    mode: EvaluationMode = "flare23"
    min_dsc_for_nsd: float = MIN_DSC_FOR_NSD

    @cached_property
    def _counts(self) -> np.ndarray:
        return _joint_counts(self.reference, self.prediction, self.labels)

    def holders(self, label: Label) -> tuple[bool, bool]:
        """Return whether the reference holds a structure, and whether the prediction does."""
        index = self.labels.labels.index(label) + 1
        return bool(self._counts[:, index, :].any()), bool(self._counts[:, :, index].any())

    def region(self, label: Label) -> Region:
        """Return the slices [start, stop) in which a structure that the reference holds is scored."""
        start, stop = 0, len(self._counts)
        if self.mode == "flare23" and label.scored == "reference_slices":
            in_slice = self._counts[:, self.labels.labels.index(label) + 1, :].any(axis=1)
            start, last = np.flatnonzero(in_slice)[[0, -1]].tolist()
            stop = max(last, start + 1)
        return start, stop

    def voxels(self, label: Label) -> tuple[int, int, int]:
        """Return how many voxels reference, prediction and both hold of a structure, in its region."""
        index, part = self.labels.labels.index(label) + 1, self._counts[slice(*self.region(label))]
        return int(part[:, index, :].sum()), int(part[:, :, index].sum()), int(part[:, index, index].sum())

    @cached_property
    def surface_dice(self) -> dict[str, float]:
        """The surface Dice at the tolerance of each structure that both hold and whose DSC is not below the limit."""
        least = 0.0 if self.mode == "plain" else self.min_dsc_for_nsd
        shared = [one for one in self.labels.labels if all(self.holders(one)) and dsc(self, one) >= least]
        regions = {label.name: self.region(label) for label in shared}
        return surface_dice(self.reference, self.prediction, self.spacing, shared, regions)


def dsc(case: Comparison, label: Label) -> float:
    """Return the Dice coefficient of a structure that both volumes hold."""
    reference, prediction, both = case.voxels(label)
    return 2 * both / (reference + prediction)


def nsd(case: Comparison, label: Label) -> float:
    """Return the normalized surface Dice of a structure that both volumes hold, 0 for a DSC below the limit."""
    return case.surface_dice.get(label.name, 0.0)


@dataclass(frozen=True)
class Metric:
    """A score of one structure in one case. Tables, comparisons, ranking, figure and report follow from it.

    Attributes:
        name: in columns, such as `liver_DSC` and `DSC_mean`, and in titles.
        measure: its value, not rounded, for a structure that both volumes hold.
        both_empty: its value where neither volume holds the structure; NaN for an empty cell, here and below.
        one_empty: its value where only the reference or only the prediction holds it.
        no_prediction: its value for a case without a usable prediction.
        higher_is_better: which way it is ranked.
        unit: such as "mm"; "" for a share of 0 to 1, which the paper's tables have in percent.
    """

    name: str
    measure: Callable[[Comparison, Label], float]
    both_empty: float = 1.0
    one_empty: float = 0.0
    no_prediction: float = 0.0
    higher_is_better: bool = True
    unit: str = ""

    @property
    def scale(self) -> int:
        """What the paper's tables multiply it by."""
        return 1 if self.unit else 100

    @property
    def title(self) -> str:
        """The name, with the unit if there is one."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


METRICS = {metric.name: metric for metric in (Metric("DSC", dsc), Metric("NSD", nsd))}
"""The scores of a structure, in the order of the tables' columns."""


def score_case(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: Spacing,
    labels: LabelMap,
    mode: EvaluationMode = "flare23",
    min_dsc_for_nsd: float = MIN_DSC_FOR_NSD,
) -> dict[str, dict[str, float]]:
    """Return the scores of one case, not rounded: by label name, in the order of the map, and by name of metric.

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
        mode: as in `Comparison`.
        min_dsc_for_nsd: as in `Comparison`.

    Raises:
        EvaluationError: the shapes differ, or a value is not in the label map.
    """
    shape = reference.shape
    if len(shape) != 3 or prediction.shape != shape:
        raise EvaluationError(f"a prediction of shape {prediction.shape} does not fit a reference of {shape}")
    sides = as_uint8(reference, labels, "reference"), as_uint8(prediction, labels, "prediction")
    case = Comparison(*sides, spacing, labels, mode, min_dsc_for_nsd)
    scores = {}
    for label in labels.labels:
        held = case.holders(label)
        scores[label.name] = {
            name: metric.measure(case, label) if all(held) else metric.one_empty if any(held) else metric.both_empty
            for name, metric in METRICS.items()
        }
    return scores


def as_uint8(volume: np.ndarray, labels: LabelMap, side: str) -> np.ndarray:
    """Return a label volume as contiguous uint8, without a copy where possible.

    Raises:
        EvaluationError: a value of the side, "reference" or "prediction", is not a whole number, or
            neither 0 nor in the label map.
    """
    if volume.dtype.kind not in "iub":
        raise EvaluationError(f"the {side} holds {volume.dtype}, not whole numbers")
    unknown = sorted(set(value_counts(volume)) - {0, *labels.values})
    if unknown:
        raise EvaluationError(f"the {side} holds values that are not in the label map: {listed(unknown)}")
    return np.ascontiguousarray(volume, dtype=np.uint8)


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
