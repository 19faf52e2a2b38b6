"""Merging original annotations and predictions: originals win.

What becomes of a voxel follows from its original and its predicted label: a table of pairs. Then `RULES` decide again
about some voxels: those of tumors that are judged as a whole, those that the teacher was unsure of. Every voxel falls
into exactly one outcome; the counts of a case add up to its volume.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from flare23_lib.config.settings import Values
from flare23_lib.config.training_models import MergePolicy
from flare23_lib.errors import MergeError
from flare23_lib.labels import IGNORE_VALUE, unpack_soft
from flare23_lib.pseudo_labels.components import Votes, find_tumors

OUTCOMES = {
    "agreed": "original",
    "kept": "original",
    "dropped": "predicted",
    "taken": "predicted",
    "tumor_inside": "original",
    "unmarked_tumor": "result",
    "unsure": "predicted",
}
"""What can become of a voxel with an original or a predicted label, or an unsure prediction; see `merge`. Each with
the side whose label it is counted by."""

CODES = {outcome: code for code, outcome in enumerate([*OUTCOMES, "background"])}
"""Outcomes as numbers; background is that of a voxel that neither side labels."""

BY_SIDE = np.array([("original", "predicted", "result").index(side) for side in [*OUTCOMES.values(), "original"]])
"""By code, the place of the side that it is counted by."""


class MergeRules(MergePolicy):
    """A merge policy, the label values that are tumors and, by that of a tumor (as text), those of the organs that it
    can be in; of any organ where they are not given."""

    tumors: Values = ()
    hidden_in: dict[str, Values] = Field(default={})


@dataclass(frozen=True)
class Merged:
    """A completed label map and what became of its voxels.

    Attributes:
        labels: uint8 (z, y, x); 255 where training is to pass over.
        background: voxels that neither side labels.
        counts: outcome -> label value -> voxels; the value is that of the side in `OUTCOMES`.
        pairs: (original, predicted) -> voxels, of all voxels.
    """

    labels: np.ndarray
    background: int
    counts: dict[str, dict[int, int]]
    pairs: dict[tuple[int, int], int]


@dataclass(frozen=True)
class MergeCase:
    """One case of a merge: what `merge` was given, and `outcomes`, uint8 (z, y, x) `CODES`, as decided so far."""

    original: np.ndarray
    predicted: np.ndarray
    annotated: Collection[int]
    rules: MergeRules
    votes: Votes | None
    outcomes: np.ndarray
    sealed: np.ndarray | None = None

    def slices_with(self, *outcomes: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the slices, each with its mask of the voxels that have one of these outcomes."""
        codes = [CODES[outcome] for outcome in outcomes]
        return ((z, np.isin(plane, codes)) for z, plane in enumerate(self.outcomes))


def merge(
    original: np.ndarray,
    predicted: np.ndarray,
    annotated: Collection[int],
    rules: MergeRules,
    votes: Votes | None = None,
    sealed: np.ndarray | None = None,
) -> Merged:
    """Complete an original label map with a prediction.

    Outcomes, voxel by voxel:

    - *agreed*, *kept*: the voxel has an original label; it keeps it, whether the prediction agrees or not.
    - *dropped*: no original label, and the prediction is of a class that is annotated in this case, hence known not
      to be there; `MergeRules.conflict_policy` decides.
    - *taken*: no original label, and the prediction is of a class that is not annotated.
    - *tumor_inside*: a tumor is predicted inside an annotated organ that it can be in, of a class that is not
      annotated in this case; `MergeRules.tumor_inside_organs` decides.
    - *unmarked_tumor*: a tumor of an annotated class is predicted apart from all marked ones, and
      `MergeRules.unmarked_tumors` says that this is not simply kept or dropped; but for voxels of organs that it
      cannot be in.
    - *unsure*: no original label, what is left to take is background or a prediction, and too few passes agree.

    Args:
        original: uint8 (z, y, x) label values, 0 where nothing is annotated.
        predicted: uint8 label values of the same shape.
        annotated: label values that count as annotated in this case.
        rules: who wins.
        votes: how the teacher's passes agree, same shape.
        sealed: bool, same shape: voxels that become no unmarked tumor, since an annotation marks them to be ignored;
            None for all that the original ignores. Those that another completion ignores may be decided again.

    Raises:
        MergeError: different shapes, or something that the rules need is not given.
    """
    given = {
        "prediction": predicted,
        "count of votes": None if votes is None else votes.count,
    }
    for name, array in given.items():
        if array is not None and array.shape != original.shape:
            raise MergeError(f"the original is {original.shape}, the {name} {array.shape}")
    if rules.asking_for_votes and votes is None:
        raise MergeError("the rules ask how sure the teacher's passes are, and their votes are not given")

    outcome_of, label_of = _tables(annotated, rules)
    outcomes, labels = (np.empty(original.shape, np.uint8) for _ in range(2))
    pairs = np.zeros(1 << 16, np.int64)
    for z in range(len(original)):
        pair = original[z].astype(np.uint16) << 8 | predicted[z]
        pairs += np.bincount(pair.ravel(), minlength=len(pairs))
        outcomes[z], labels[z] = outcome_of[pair], label_of[pair]
    totals = _counted(outcome_of, *np.divmod(np.arange(1 << 16), 256), label_of, pairs)
    case = MergeCase(original, predicted, annotated, rules, votes, outcomes, sealed)
    for rule in RULES:
        for outcome, voxels, values in rule(case):
            totals -= _counted(*(volume[voxels] for volume in (outcomes, original, predicted, labels)))
            outcomes[voxels], labels[voxels] = CODES[outcome], values
            totals += _counted(*(volume[voxels] for volume in (outcomes, original, predicted, labels)))
    counts = {
        outcome: {int(value): int(row[value]) for value in np.flatnonzero(row)}
        for outcome, row in zip(OUTCOMES, totals, strict=False)
    }
    there = {(int(pair) >> 8, int(pair) & 255): int(pairs[pair]) for pair in np.flatnonzero(pairs)}
    return Merged(labels, int(totals[CODES["background"]].sum()), counts, there)


def merge_soft(
    soft: np.ndarray,
    original: np.ndarray,
    predicted: np.ndarray,
    merged: np.ndarray,
    annotated: Collection[int],
) -> np.ndarray:
    """Return soft labels where a merge left the teacher's label to a voxel, and 0, hard labels, elsewhere.

    An original label is certain, and so is a voxel of which the merge decided something else than the teacher, or
    where one of the two classes is annotated in the case and known not to be there.

    Args:
        soft: int32 (z, y, x), `labels.pack_soft`.
        original: uint8 label values of the same shape.
        predicted: the teacher's, likewise.
        merged: `Merged.labels`.
        annotated: label values that count as annotated in this case.
    """
    known = _among(annotated)
    result = np.zeros_like(soft)
    for z, plane in enumerate(soft):
        first, second, share = unpack_soft(plane)
        kept = (share > 0) & (original[z] == 0) & (merged[z] == predicted[z])
        kept &= ~(known[merged[z]] | known[first] | known[second])
        result[z][kept] = plane[kept]
    return result


def _counted(
    codes: np.ndarray,
    original: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """Count some voxels by outcome and by the label of its side: (outcomes, 256), int64."""
    values = np.choose(BY_SIDE[codes], (original, predicted, labels))
    counts = np.bincount(codes.astype(np.intp) << 8 | values, times, minlength=256 * len(CODES))
    return counts.astype(np.int64).reshape(-1, 256)


def _tables(annotated: Collection[int], rules: MergeRules) -> tuple[np.ndarray, np.ndarray]:
    """Return the outcome and the label of each pair, (65536,); a pair is 256 * original + predicted."""
    original, predicted = np.divmod(np.arange(1 << 16), 256)
    has_original = original != 0
    known = np.isin(predicted, list(annotated)) & (predicted != 0)
    organ = has_original & ~np.isin(original, [*rules.tumors, IGNORE_VALUE])
    open_tumor = np.isin(predicted, [value for value in rules.tumors if value not in annotated])
    inside = organ & open_tumor & ~_barred(rules)[original, predicted]
    conditions = {
        "tumor_inside": inside,
        "agreed": has_original & (original == predicted),
        "kept": has_original,
        "dropped": known,
        "taken": predicted != 0,
    }
    codes = [CODES[outcome] for outcome in conditions]
    outcomes = np.select(list(conditions.values()), codes, CODES["background"]).astype(np.uint8)
    labels = np.where(has_original, original, predicted)
    labels[outcomes == CODES["dropped"]] = IGNORE_VALUE if rules.conflict_policy == "ignore" else 0
    if rules.tumor_inside_organs == "tumor":
        labels[inside] = predicted[inside]
    elif rules.tumor_inside_organs in ("ignore", "if_sure"):
        labels[inside] = IGNORE_VALUE
    return outcomes, labels.astype(np.uint8)


def _barred(rules: MergeRules) -> np.ndarray:
    """Return whether a predicted tumor cannot be where an original label is, (256, 256) by original and predicted."""
    barred = np.zeros((256, 256), dtype=bool)
    for tumor, organs in rules.hidden_in.items():
        barred[1:, int(tumor)] = True
        barred[[*organs, *rules.tumors, IGNORE_VALUE], int(tumor)] = False
    return barred


Decision = tuple[str, Any, np.ndarray | int]
"""An outcome, an index of voxels, and the labels that they get."""


def _unsure(case: MergeCase) -> Iterator[Decision]:
    """Ignore unannotated voxels in which too few passes agree."""
    if case.votes and case.rules.min_agreement:
        least = np.ceil(case.rules.min_agreement * case.votes.passes)
        for z, is_open in case.slices_with("taken", "background"):
            yield "unsure", (z, is_open & (case.votes.count[z] < least)), IGNORE_VALUE


def _tumors(case: MergeCase) -> Iterator[Decision]:
    """Decide tumor by tumor: those that touch no marked one, and those inside organs."""
    rules = case.rules
    known = set(rules.tumors) & set(case.annotated)
    judged: list[tuple[str, str, set[int], np.ndarray | None]] = []
    if known and rules.unmarked_tumors != "keep_original":
        judged.append(("unmarked_tumor", rules.unmarked_tumors, known, _among(rules.tumors)[case.original]))
    if (unknown := set(rules.tumors) - known) and rules.tumor_inside_organs == "if_sure":
        judged.append(("tumor_inside", "if_sure", unknown, None))
    barred = _barred(rules)
    for outcome, policy, values, marked in judged:
        for place, certainty in find_tumors(_among(values)[case.predicted], marked, case.votes):
            if outcome == "tumor_inside":
                decided = case.outcomes[place] == CODES[outcome]
            else:
                sealed = case.original[place] == IGNORE_VALUE if case.sealed is None else case.sealed[place]
                decided = ~(sealed | barred[case.original[place], case.predicted[place]])
            place = tuple(index[decided] for index in place)
            is_one = policy == "tumor" or (policy == "if_sure" and certainty >= rules.min_tumor_agreement)
            yield outcome, place, case.predicted[place] if is_one else IGNORE_VALUE


RULES: list[Callable[[MergeCase], Iterator[Decision]]] = [_unsure, _tumors]
"""What decides, in this order, after the table of pairs."""


def _among(values: Collection[int]) -> np.ndarray:
    """Return whether each label value is one of some, (256,)."""
    return np.isin(np.arange(256), list(values))
