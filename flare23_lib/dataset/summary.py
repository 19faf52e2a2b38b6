"""Tables of a scan: cases, issues, and how many cases and voxels each category has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flare23_lib.dataset import compare_sources
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.dataset.quality import QUARANTINE, QualityIssue
from flare23_lib.dataset.scan import CohortScan
from flare23_lib.io.tables import write_csv

ALL = "all"
"""Stands for all label sets of a category in categories.csv."""

SHOWN = 3
"""Issues of each kind that are shown on the terminal."""

CATEGORY_COLUMNS = ["split", "category", "labels_present", "cases", "quarantined", "voxels"]
ISSUE_COLUMNS = ["case", "file", "kind", "message", "what_to_do"]


def write_scan(scan: CohortScan, folder: Path) -> None:
    """Write the tables into a folder; cases.csv comes last.

    quarantine.csv lists the issues that leave a case out, warnings.csv the others; categories.csv counts. With
    several sources, sources.csv has what each label looks like in each.
    """
    for name in ("quarantine.csv", "warnings.csv"):
        rows = [
            {"case": issue.case, "file": issue.file, "kind": issue.kind, "message": issue.message,
             "what_to_do": issue.remedy} for issue in scan.issues if _table(issue.severity) == name
        ]  # fmt: skip
        write_csv(folder / name, ISSUE_COLUMNS, rows)
    write_csv(folder / "categories.csv", CATEGORY_COLUMNS, category_rows(scan))
    if scan.figures:
        write_csv(folder / "sources.csv", compare_sources.COLUMNS, scan.figures)
    else:
        (folder / "sources.csv").unlink(missing_ok=True)
    write_cases(folder / "cases.csv", scan.cases)


def _table(severity: str) -> str:
    return "quarantine.csv" if severity == QUARANTINE else "warnings.csv"


def category_rows(scan: CohortScan) -> list[dict]:
    """Return a row per category with all its label sets summed up, then one per label set within it.

    `cases` counts all cases, `quarantined` those of them that are left out; `voxels` are those of the images, in all.
    """
    rows = []
    training = [case for case in scan.cases if case.split == "training"]
    for name in [*scan.categories, ""]:
        members = [case for case in training if case.category == name]
        if not members and not name:
            continue
        rows.append(_count("training", name or "(none)", ALL, members))
        sets = Counter(tuple(case.labels_present) for case in members)
        if any(sets):
            for present, _ in sorted(sets.items(), key=lambda item: (-item[1], item[0])):
                chosen = [case for case in members if tuple(case.labels_present) == present]
                rows.append(_count("training", name or "(none)", " ".join(map(str, present)), chosen))
    rows.append(_count("validation", "", ALL, [case for case in scan.cases if case.split == "validation"]))
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


def format_scan(scan: CohortScan) -> str:
    """Return the counts as a table for the terminal, and of each kind of issue how many there are, the first ones and
    what to do.

    `used` are the cases that are not quarantined, which is what later stages count.
    """
    lines = [f"{'category':<20}{'cases':>8}{'quarantined':>13}{'used':>8}{'Gvoxel':>10}"]
    for row in category_rows(scan):
        if row["labels_present"] == ALL:
            name = row["category"] if row["split"] == "training" else "validation cases"
            cases, quarantined = row["cases"], row["quarantined"]
            used, size = cases - quarantined, row["voxels"] / 1e9
            lines.append(f"{name:<20}{cases:>8}{quarantined:>13}{used:>8}{size:>10.2f}")
    sources = Counter((case.source, case.usable) for case in scan.cases)
    names = dict.fromkeys(source for source, _ in sources)
    if len(names) > 1:
        lines += ["", f"{'source':<20}{'cases':>8}{'quarantined':>13}{'used':>8}"]
        for name in names:
            used, quarantined = sources[name, True], sources[name, False]
            lines.append(f"{name:<20}{used + quarantined:>8}{quarantined:>13}{used:>8}")
    kinds: dict[tuple[str, str], list[QualityIssue]] = defaultdict(list)
    for issue in scan.issues:
        kinds[issue.severity, issue.kind].append(issue)
    if kinds:
        lines += ["", f"{'issue':<32}{'files':>8}"]
    for (severity, kind), issues in sorted(kinds.items()):
        lines.append(f"{kind:<32}{len(issues):>8}  {severity}")
        lines += [f"  {issue.case or issue.file}: {issue.message}" for issue in issues[:SHOWN]]
        if len(issues) > SHOWN:
            lines.append(f"  and {len(issues) - SHOWN} more, see {_table(severity)}")
        lines.append(f"  what to do: {issues[0].remedy}")
    return "\n".join(lines)
