"""What the survey says in tables: cases, faults, and how many cases and voxels each category has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.dataset.quality import QUARANTINE
from flare23_lib.dataset.scan import Survey
from flare23_lib.io.tables import write_csv

ALL = "all"
"""Stands for all label sets of a category in categories.csv."""

CATEGORY_COLUMNS = ["split", "category", "labels_present", "cases", "quarantined", "voxels"]
FAULT_COLUMNS = ["case", "file", "kind", "message", "what_to_do"]


def write_survey(survey: Survey, folder: Path) -> None:
    """Write the tables into a folder; cases.csv comes last.

    quarantine.csv lists the faults that leave a case out, warnings.csv the others; categories.csv counts.
    """
    for name, grave in (("quarantine.csv", True), ("warnings.csv", False)):
        faults = [fault for fault in survey.faults if (fault.severity == QUARANTINE) == grave]
        rows = [
            {"case": fault.case, "file": fault.file, "kind": fault.kind, "message": fault.message,
             "what_to_do": fault.remedy} for fault in faults
        ]  # fmt: skip
        write_csv(folder / name, FAULT_COLUMNS, rows)
    write_csv(folder / "categories.csv", CATEGORY_COLUMNS, category_rows(survey))
    write_cases(folder / "cases.csv", survey.cases)


def category_rows(survey: Survey) -> list[dict]:
    """Return a row per category with all its label sets summed up, then one per label set within it.

    `cases` counts all cases, `quarantined` those of them that are left out; `voxels` are those of the images, in all.
    """
    rows = []
    training = [case for case in survey.cases if case.split == "training"]
    for name in [*survey.categories, ""]:
        members = [case for case in training if case.category == name]
        if not members and not name:
            continue
        rows.append(_count("training", name or "(none)", ALL, members))
        sets = Counter(tuple(case.labels_present) for case in members)
        if any(sets):
            for present, _ in sorted(sets.items(), key=lambda item: (-item[1], item[0])):
                chosen = [case for case in members if tuple(case.labels_present) == present]
                rows.append(_count("training", name or "(none)", " ".join(map(str, present)), chosen))
    rows.append(_count("validation", "", ALL, [case for case in survey.cases if case.split == "validation"]))
    return rows


def _count(split: str, category: str, present: str, cases: Sequence[Case]) -> dict:
    return {
        "split": split,
        "category": category,
        "labels_present": present,
        "cases": len(cases),
        "quarantined": sum(not case.usable for case in cases),
        "voxels": sum(int(np.prod(case.shape)) for case in cases if case.shape),
    }


def format_survey(survey: Survey) -> str:
    """Return the counts as a table for the terminal, and how many faults of each kind there are."""
    lines = [f"{'category':<20}{'cases':>8}{'quarantined':>13}{'Gvoxel':>10}"]
    for row in category_rows(survey):
        if row["labels_present"] == ALL:
            name = row["category"] if row["split"] == "training" else "validation cases"
            lines.append(f"{name:<20}{row['cases']:>8}{row['quarantined']:>13}{row['voxels'] / 1e9:>10.2f}")
    kinds = Counter((fault.severity, fault.kind) for fault in survey.faults)
    if kinds:
        lines += ["", f"{'fault':<32}{'files':>8}"]
        lines += [f"{kind:<32}{number:>8}  {severity}" for (severity, kind), number in sorted(kinds.items())]
    return "\n".join(lines)
