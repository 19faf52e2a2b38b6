"""Whether every file that a record lists is there and whole."""

from __future__ import annotations

import csv
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flare23_lib.cache.collect import links
from flare23_lib.cache.results import SHARDED, Results, item_name
from flare23_lib.choices import MODEL_FILE, WEIGHTS_FILE
from flare23_lib.errors import BundleError, StoreError
from flare23_lib.io.atomic import TEMPORARY_MARK, read_json
from flare23_lib.io.tables import read_csv

GATHERED = ("conflicts.csv", "predictions.csv")
"""What gathering jobs write beside the records of their shards, and beside the links to their files."""
FILE_COLUMNS = ("file", "image", "label")

PART, THREADS = 4000, 16
"""Files that a process checks at a time, and how many of them at once."""


def records(results: Results) -> Iterator[tuple[Path, list[str] | None]]:
    """Yield every record with the files that it lists (relative to the results folder); None if it is broken."""
    for path in [*_shards(results), *sorted((results.root / "evaluation").glob("*/efficiency.csv"))]:
        yield path, _listed(path)
    for path in sorted((results.root / "training").glob("*/training.json")):
        try:
            yield path, _of_the_store([read_json(path)["weights"]])
        except (StoreError, KeyError, TypeError):
            yield path, None


def superseded(results: Results, current: Iterable[Path]) -> set[Path]:
    """Return the records of other numbers of shards, in folders where the current ones are all there.

    Args:
        results: the results folder.
        current: the records that the configuration asks for.
    """
    wanted: dict[Path, set[Path]] = defaultdict(set)
    for record in current:
        wanted[record.parent].add(record)
    whole = {folder for folder, asked in wanted.items() if all(record.exists() for record in asked)}
    return {path for path in _shards(results) if path.parent in whole and path not in wanted[path.parent]}


def _shards(results: Results) -> list[Path]:
    """Return the records of all shards, without what a killed job left half-written."""
    folders = [results.root / folder for folder, _ in SHARDED.values()]
    found = [path for folder in folders for path in sorted(folder.glob("*/*-of-*.csv"))]
    return [path for path in found if not path.name.startswith(TEMPORARY_MARK)]


def _listed(path: Path) -> list[str] | None:
    try:
        rows = read_csv(path)
        whole = path.read_text(encoding="utf-8").endswith("\n")
    except (StoreError, OSError):
        return None
    if not whole or any(None in row or None in row.values() for row in rows):
        return None
    return _of_the_store([row[column] for row in rows for column in FILE_COLUMNS if row.get(column)])


def _of_the_store(files: list[str]) -> list[str] | None:
    """Return files out of a record; None if one of them is no file of the store's, by its name."""
    return None if any(item_name(Path(file)) is None for file in files) else files


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        checked: files looked at.
        missing: files that are gone or not as they were written.
        withdrawn: records that listed them and were removed, so that the next run makes them again.
    """

    checked: int
    missing: list[Path]
    withdrawn: list[Path]


def verify(results: Results, processes: int = 1) -> Verification:
    """Check every file that a record lists (size and last bytes), every record and every bundle.

    Records that are broken or list files that are not whole are withdrawn, and so are bundles that are not whole. A
    gathered table that is broken or whose links are gone is withdrawn alone.
    """
    listed = list(records(results))
    files = list(dict.fromkeys(file for _, found in listed for file in found or ()))
    faults = dict(zip(files, _check_all(results, files, processes), strict=True))
    missing = list(dict.fromkeys(path for found in faults.values() for path in found))
    missing += [record for record, found in listed if found is None]
    withdrawn: list[Path] = []
    for record, found in listed:
        if found is None or any(faults[file] for file in found):
            gathered = [path for path in record.parent.glob("*.csv") if path.name in GATHERED]
            for path in [record, *gathered]:
                path.unlink(missing_ok=True)
                withdrawn.append(path)
    for table in sorted(path for name in GATHERED for path in results.root.glob(f"*/*/{name}")):
        broken = [] if _is_gathered(table) else [table]
        if gone := broken or [link for link in links(table) if not os.path.lexists(link)]:
            table.unlink()
            missing += gone
            withdrawn.append(table)
    bundles = sorted(path.parent for path in (results.root / "models").glob("*/" + MODEL_FILE))
    for weights, description in _broken(bundles):
        missing.append(weights)
        for path in (weights, description):
            path.unlink(missing_ok=True)
            withdrawn.append(path)
    return Verification(len(files) + len(bundles), missing, withdrawn)


def _is_gathered(table: Path) -> bool:
    """Say whether a gathered table is whole and has the cases of the records beside it, of one number of shards."""
    if _listed(table) is None or not {"case", "file"} <= _columns(table):
        return False
    cases: dict[str, list[str]] = defaultdict(list)
    for record in table.parent.glob("*-of-*.csv"):
        if _listed(record) is not None:
            cases[record.stem.partition("-of-")[2]] += [row["case"] for row in read_csv(record)]
    gathered = sorted(row["case"] for row in read_csv(table))
    return not cases or gathered in map(sorted, cases.values())


def _columns(table: Path) -> set[str]:
    """Return the names of a table's columns."""
    with table.open(encoding="utf-8", newline="") as file:
        return set(next(csv.reader(file), ()))


def _broken(bundles: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield weights and description of the bundles that do not load."""
    from flare23_lib.inference.bundle import load_bundle

    for bundle in bundles:
        try:
            load_bundle(bundle)
        except BundleError:
            yield bundle / WEIGHTS_FILE, bundle / MODEL_FILE


def _check_all(results: Results, files: Sequence[str], processes: int) -> list[list[Path]]:
    """Return what is wrong with each file; many are looked at at once, because a disk takes its time for each."""
    parts = [files[start : start + PART] for start in range(0, len(files), PART)]
    if processes <= 1 or len(parts) < 2:
        return [faults for part in parts for faults in _check(results, part)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(parts)), mp_context=context) as pool:
        return [faults for found in pool.map(partial(_check, results), parts) for faults in found]


def _check(results: Results, files: Sequence[str]) -> list[list[Path]]:
    """Return what is wrong with each file of a part."""
    slices = [files[start::THREADS] for start in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda chosen: [_faults(results, file) for file in chosen], slices))
    return [found[place % THREADS][place // THREADS] for place in range(len(files))]


def _faults(results: Results, file: str) -> list[Path]:
    item, path = results.item(file), results.root / file
    try:
        note = read_json(item.note_path)
    except StoreError:
        return [item.note_path if path.exists() else path]
    return item.missing(note)
