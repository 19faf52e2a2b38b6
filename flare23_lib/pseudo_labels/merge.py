"""Merging original annotations and predictions: originals win.

What becomes of a voxel follows from its original and its predicted label alone, but for tumors that are judged as a
whole and voxels that the teacher was unsure of. So a merge is a lookup in a table of pairs, and counting the pairs of
a case counts its outcomes. Every voxel falls into exactly one outcome; the counts of a case add up to its volume.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Strict

from flare23_lib.config.training_models import MergePolicy
from flare23_lib.errors import MergeError
from flare23_lib.labels import IGNORE_VALUE
from flare23_lib.pseudo_labels.components import Votes, find_tumors

OUTCOMES = ("agreed", "kept", "dropped", "taken", "tumor_inside", "unmarked_tumor", "unsure")
"""What can become of a voxel with an original or a predicted label, or an unsure prediction; see `merge`."""

BACKGROUND = len(OUTCOMES)
"""Code, beside the outcomes' places, of a voxel that neither side labels."""


class MergeRules(MergePolicy):
    """A merge policy, and the label values that are tumors."""

    tumors: Annotated[tuple[int, ...], Strict(False)] = ()


@dataclass(frozen=True)
class Merged:
    """A completed label map and what became of its voxels.

    Attributes:
        labels: uint8 (z, y, x); 255 where training is to pass over.
        background: voxels that neither side labels.
        counts: outcome -> label value -> voxels; the value is the original's for agreed, kept and tumor_inside, the
            prediction's for dropped, taken and unsure (0 for background), and for unmarked_tumor the result's.
        pairs: (original, predicted) -> voxels, of all voxels.
    """

    labels: np.ndarray
    background: int
    counts: dict[str, dict[int, int]]
    pairs: dict[tuple[int, int], int]


def merge(
    original: np.ndarray,
    predicted: np.ndarray,
    annotated: Collection[int],
    rules: MergeRules,
    next_class: np.ndarray | None = None,
    votes: Votes | None = None,
) -> Merged:
    """Complete an original label map with a prediction.

    Outcomes, voxel by voxel:

    - *agreed*, *kept*: the voxel has an original label; it keeps it, whether the prediction agrees or not.
    - *dropped*: no original label, and the prediction is of a class that is annotated in this case, hence known not
      to be there; `MergeRules.conflict_policy` decides.
    - *taken*: no original label, and the prediction is of a class that is not annotated.
    - *tumor_inside*: a tumor is predicted inside an annotated organ, of a class that is not annotated in this case;
      `MergeRules.tumor_inside_organs` decides.
    - *unmarked_tumor*: a tumor of an annotated class is predicted apart from all marked ones, and
      `MergeRules.unmarked_tumors` says that this is not simply kept or dropped.
    - *unsure*: no original label, what is left to take is background or a prediction, and too few passes agree.

    Args:
        original: uint8 (z, y, x) label values, 0 where nothing is annotated.
        predicted: uint8 label values of the same shape.
        annotated: label values that count as annotated in this case.
        rules: who wins.
        next_class: the prediction's best classes when those annotated may not win, same shape.
        votes: how the teacher's passes agree, same shape.

    Raises:
        MergeError: different shapes, or something that the rules need is not given.
    """
    given = {
        "prediction": predicted,
        "next class": next_class,
        "count of votes": None if votes is None else votes.count,
    }
    for name, array in given.items():
        if array is not None and array.shape != original.shape:
            raise MergeError(f"the original is {original.shape}, the {name} {array.shape}")
    if rules.conflict_policy == "next_class" and next_class is None:
        raise MergeError("conflict_policy next_class needs the next classes of every voxel")
    if rules.need_votes and votes is None:
        raise MergeError("the rules ask how sure the teacher's passes are, and their votes are not given")

    outcomes, table = _tables(annotated, rules)
    places = outcomes * np.intp(256) + _counted_by(outcomes)
    labels = np.empty(original.shape, np.uint8)
    pairs = np.zeros(1 << 16, np.int64)
    totals = np.zeros((BACKGROUND + 1, 256), np.int64)
    least = np.ceil(rules.min_agreement * votes.passes) if votes and rules.min_agreement else 0
    open_outcomes = np.isin(outcomes, [OUTCOMES.index("taken"), BACKGROUND])
    for z in range(len(original)):
        pair = _pairs(original[z], predicted[z])
        pairs += np.bincount(pair.ravel(), minlength=len(pairs))
        labels[z] = table[pair]
        if next_class is not None and rules.conflict_policy == "next_class":
            dropped = outcomes[pair] == OUTCOMES.index("dropped")
            labels[z][dropped] = next_class[z][dropped]
        if votes and least:
            unsure = (votes.count[z] < least) & open_outcomes[pair]
            _move(totals, places, pair[unsure], "unsure", pair[unsure] & 255)
            labels[z][unsure] = IGNORE_VALUE
    for outcome, place, is_one in _judged_tumors(original, predicted, annotated, rules, votes):
        if outcome == "tumor_inside":
            inside = outcomes[_pairs(original[place], predicted[place])] == OUTCOMES.index(outcome)
            place = tuple(index[inside] for index in place)
        labels[place] = predicted[place] if is_one else IGNORE_VALUE
        if outcome == "unmarked_tumor":
            _move(totals, places, _pairs(original[place], predicted[place]), outcome, labels[place])
    np.add.at(totals.reshape(-1), places, pairs)
    counts = {
        outcome: {int(value): int(row[value]) for value in np.flatnonzero(row)}
        for outcome, row in zip(OUTCOMES, totals[:BACKGROUND], strict=True)
    }
    there = {(int(pair) >> 8, int(pair) & 255): int(pairs[pair]) for pair in np.flatnonzero(pairs)}
    return Merged(labels, int(totals[BACKGROUND].sum()), counts, there)


def _pairs(original: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return original.astype(np.uint16) << 8 | predicted


def _tables(annotated: Collection[int], rules: MergeRules) -> tuple[np.ndarray, np.ndarray]:
    """Return the outcome and the label of each pair, (65536,); a pair is 256 * original + predicted."""
    original, predicted = np.divmod(np.arange(1 << 16), 256)
    has_original = original != 0
    known = np.isin(predicted, list(annotated)) & (predicted != 0)
    organ = has_original & ~np.isin(original, [*rules.tumors, IGNORE_VALUE])
    open_tumor = np.isin(predicted, [value for value in rules.tumors if value not in annotated])
    inside = organ & open_tumor
    conditions = {
        "tumor_inside": inside,
        "agreed": has_original & (original == predicted),
        "kept": has_original,
        "dropped": known,
        "taken": predicted != 0,
    }
    codes = [OUTCOMES.index(outcome) for outcome in conditions]
    outcomes = np.select(list(conditions.values()), codes, BACKGROUND).astype(np.uint8)
    labels = np.where(has_original, original, predicted)
    labels[outcomes == OUTCOMES.index("dropped")] = IGNORE_VALUE if rules.conflict_policy == "ignore" else 0
    if rules.tumor_inside_organs == "tumor":
        labels[inside] = predicted[inside]
    elif rules.tumor_inside_organs in ("ignore", "if_sure"):
        labels[inside] = IGNORE_VALUE
    return outcomes, labels.astype(np.uint8)


def _counted_by(outcomes: np.ndarray) -> np.ndarray:
    """Return the label value that each pair is counted by."""
    original, predicted = np.divmod(np.arange(1 << 16), 256)
    by_prediction = np.isin(outcomes, [OUTCOMES.index("dropped"), OUTCOMES.index("taken")])
    return np.where(by_prediction, predicted, original)


def _move(totals: np.ndarray, places: np.ndarray, pairs: np.ndarray, outcome: str, values: np.ndarray) -> None:
    """Count voxels of some pairs as another outcome, by given label values, and no longer at their pairs' places."""
    totals[OUTCOMES.index(outcome)] += np.bincount(values, minlength=256)
    totals -= np.bincount(places[pairs], minlength=totals.size).reshape(totals.shape)


def _judged_tumors(
    original: np.ndarray,
    predicted: np.ndarray,
    annotated: Collection[int],
    rules: MergeRules,
    votes: Votes | None,
) -> Iterator[tuple[str, tuple[np.ndarray, ...], bool]]:
    """Give what is decided tumor by tumor: the outcome, the voxels of a predicted tumor, and whether it is one."""
    known = set(rules.tumors) & set(annotated)
    judged: list[tuple[str, str, set[int], np.ndarray | None]] = []
    if known and rules.unmarked_tumors != "keep_original":
        judged.append(("unmarked_tumor", rules.unmarked_tumors, known, _among(rules.tumors)[original]))
    if (unknown := set(rules.tumors) - known) and rules.tumor_inside_organs == "if_sure":
        judged.append(("tumor_inside", "if_sure", unknown, None))
    for outcome, rule, values, marked in judged:
        for place, certainty in find_tumors(_among(values)[predicted], marked, votes):
            yield outcome, place, rule == "tumor" or (rule == "if_sure" and certainty >= rules.min_tumor_agreement)


def _among(values: Collection[int]) -> np.ndarray:
    """Return whether each label value is one of some, (256,)."""
    return np.isin(np.arange(256), list(values))
