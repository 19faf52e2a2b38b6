"""A teacher's labels of a category's training cases: what is annotated in these already, and what changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from flare23_lib.cache.entries import Metadata, Shard
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config.settings import AnnotatedValues, PseudoLabelSettings
from flare23_lib.dataset.cases import Case, annotated_of, usable_cases
from flare23_lib.errors import StoreError
from flare23_lib.inference.image_files import Extras
from flare23_lib.inference.segmentations import ModelUse, Wanted, segment_missing
from flare23_lib.io.atomic import read_json
from flare23_lib.io.tables import read_csv

DIGITS = 6
"""Decimals that a change is given with."""


def pseudo_label(
    results: Results,
    teacher: ModelUse,
    settings: PseudoLabelSettings,
    base: str | None,
    shard: Shard,
    output: Path,
) -> None:
    """Segment a category's cases of a shard with a teacher, and write the shard's record.

    `base` is the name of the completion that this one builds on, or None.
    """
    wanted = category_shard(results, settings, base, shard)
    lock_name = f"{settings.category}-{shard}"  # other completions of the category share its segmentations
    made = segment_missing(results, teacher, wanted, lock_name)
    labels = read_json(results.model_file(teacher.name))["labels"][1:]
    names = {str(label["value"]): label["name"] for label in labels}
    rows = []
    for row, metadata in made:
        agreement = metadata["results"]["agreement"]
        rows.append(row | {f"agreement_{name}": rounded(agreement.get(value)) for value, name in names.items()})
    write_record(output, ["case", "file", *(f"agreement_{name}" for name in names.values())], rows)


def extras_of(settings: PseudoLabelSettings, case: Case, bases: Mapping[str, Mapping[str, str]]) -> Extras:
    """Return what a completion needs of a case in addition to labels; `bases` as `base_rows`."""
    exclude = () if settings.annotated is None else annotated_labels(settings.annotated, case, bases)
    return Extras(tuple(exclude), settings.votes, settings.soft)


def category_shard(results: Results, settings: PseudoLabelSettings, base: str | None, shard: Shard) -> Wanted:
    """Return a category's cases of a shard, with what is made of them."""
    cases = [case for case in usable_cases(results.cases, "training", settings.category) if case.case in shard]
    bases = base_rows(results, base) if settings.annotated is not None else {}
    return [(case, extras_of(settings, case, bases)) for case in cases]


def base_rows(results: Results, base: str | None) -> dict[str, dict[str, str]]:
    """Return the records of the completion that another builds on, by case; empty without one."""
    if base is None:
        return {}
    return {row["case"]: row for row in read_csv(results.collected("completed_labels", base))}


def base_of(case: Case, bases: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """Return a case's record of the completion that another builds on; StoreError if it is not among them."""
    if case.case not in bases:
        raise StoreError(f"{case.case} is not in the record of the completion that this one builds on")
    return bases[case.case]


def annotated_labels(annotated: AnnotatedValues, case: Case, bases: Mapping[str, Mapping[str, str]]) -> list[int]:
    """Return the label values that count as annotated in a case; `bases` as `base_rows`.

    `annotated` is what the completion states; of one with a base what is present is that in the base's label.
    StoreError if the case is not among the bases.
    """
    if annotated not in ("present", "only_present") or not bases:
        return annotated_of(case, annotated)
    stated = case.annotated or () if annotated == "present" else ()
    return sorted({*map(int, base_of(case, bases)["labels_present"].split()), *stated})


# Cases whose pseudo-labels changed most can be left out of training. What changes from one teacher to the next, or
# between the mirrored passes of one, is likely to be wrong. FLARE22's winner (Huang et al., "Revisiting nnU-Net for
# iterative pseudo labeling and efficient sliding window inference") filtered its unlabeled cases by how their
# pseudo-labels changed from round to round; this is in that spirit.


def change_between(one: np.ndarray, other: np.ndarray, values: Collection[int]) -> float:
    """Return 1 minus the mean Dice of those of `values` that either label map holds; 0 if neither holds any.

    Both are uint8 (z, y, x) label values, of the same shape.
    """
    ones, others = (np.bincount(labels.ravel(), minlength=256) for labels in (one, other))
    both = np.bincount(one[one == other], minlength=256)
    held = [value for value in values if ones[value] + others[value]]
    return round(1 - _mean([2 * both[value] / (ones[value] + others[value]) for value in held]), DIGITS)


def change_between_passes(scores: Sequence[float]) -> float:
    """Return 1 minus the mean of the agreement of the classes that the passes hold; 0 if they hold none."""
    return round(1 - _mean(scores), DIGITS)


def most_changed(changes: Mapping[str, float], count: int) -> set[str]:
    """Return the `count` cases that changed most; of equal ones the first by name stay."""
    ordered = sorted(changes, key=lambda case: (changes[case], case))
    return set(ordered[len(ordered) - count :])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 1.0


def pass_change(metadata: Metadata) -> float:
    """Return how much a segmentation's labels change between its passes, from the agreement as records hold it."""
    scores = map(rounded, metadata["results"]["agreement"].values())
    return change_between_passes([score for score in scores if score is not None])


def rounded(value: float | None) -> float | None:
    """Return an agreement as records hold it."""
    return None if value is None else round(value, 4)
