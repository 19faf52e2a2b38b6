"""What gathering jobs have in common: count, name what is missing, link by plain names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flare23_lib.cache.results import Results, read_shards
from flare23_lib.errors import StoreError
from flare23_lib.io.atomic import link_to
from flare23_lib.io.tables import read_csv


def complete_rows(results: Results, stage: str, name: str, shards: int, cases: Sequence[str]) -> list[dict[str, str]]:
    """Return the records' rows of all cases, sorted.

    Raises:
        StoreError: a case is in no record, or its file is gone.
    """
    rows = {row["case"]: row for row in read_shards(results, stage, name, shards)}
    missing = [case for case in cases if case not in rows]
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise StoreError(f"{stage} of {name}: {len(missing)} of {len(cases)} cases are in no record: {listed}")
    chosen = [rows[case] for case in sorted(cases)]
    for row in chosen:
        results.file(row["file"])
    return chosen


def _link_name(case: str) -> str:
    return f"{case}.nii.gz"


def links(table: Path) -> list[Path]:
    """Return the links that were made beside a gathered table."""
    return [table.with_name(_link_name(row["case"])) for row in read_csv(table)]


def link_cases(results: Results, folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Link `{case}.nii.gz` to each case's file in the store, and remove the links of cases that left."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {_link_name(row["case"]): results.root / row["file"] for row in rows}
    for path in folder.glob("*.nii.gz"):
        if path.is_symlink() and path.name not in wanted:
            path.unlink()
    for name, target in wanted.items():
        link_to(folder / name, target)
