"""What a completion builds on: original labels, or those of another completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from flare23_lib.cache.results import Results
from flare23_lib.dataset.cases import Case, annotated_of
from flare23_lib.errors import StoreError
from flare23_lib.io.tables import read_csv


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


def annotated_labels(
    annotated: Literal["present"] | Sequence[int], case: Case, bases: Mapping[str, Mapping[str, str]]
) -> list[int]:
    """Return the label values that count as annotated in a case.

    Args:
        annotated: these values; or "present": what its source states, and of a base what is present in it; where the
            source leaves it open, what is present (`annotated_of`).
        case: the case.
        bases: `base_rows`.

    Raises:
        StoreError: the case is not among them.
    """
    if annotated != "present":
        return list(annotated)
    if bases:
        return sorted({*map(int, base_of(case, bases)["labels_present"].split()), *(case.annotated or ())})
    return annotated_of(case)
