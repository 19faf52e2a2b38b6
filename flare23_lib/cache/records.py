"""The records of a results folder, all together: which files they list, and which of them are outdated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from flare23_lib.cache.results import SHARDED, Results, entry_name
from flare23_lib.errors import StoreError
from flare23_lib.io.atomic import TEMPORARY_MARK, read_json
from flare23_lib.io.tables import read_csv

FILE_COLUMNS = ("file", "image", "label")


def shard_records(results: Results) -> list[Path]:
    """Return the records of all shards, without files that a killed job left half-written."""
    folders = [results.root / folder for folder, _ in SHARDED.values()]
    found = [path for folder in folders for path in sorted(folder.glob("*/*-of-*.csv"))]
    return [path for path in found if not path.name.startswith(TEMPORARY_MARK)]


def records(results: Results) -> Iterator[tuple[Path, list[str] | None]]:
    """Yield every record with the files that it lists, relative to the results folder; None if it is broken."""
    for path in [*shard_records(results), *sorted((results.root / "evaluation").glob("*/efficiency.csv"))]:
        yield path, listed_files(path)
    for path in sorted((results.root / "training").glob("*/training.json")):
        try:
            yield path, _of_the_cache([read_json(path)["weights"]])
        except (StoreError, KeyError, TypeError):
            yield path, None


def listed_files(record: Path) -> list[str] | None:
    """Return the files that a table lists; None if it is broken."""
    try:
        rows = read_csv(record)
        whole = record.read_text(encoding="utf-8").endswith("\n")
    except (StoreError, OSError):
        return None
    if not whole or any(None in row or None in row.values() for row in rows):
        return None
    return _of_the_cache([row[column] for row in rows for column in FILE_COLUMNS if row.get(column)])


def _of_the_cache(files: list[str]) -> list[str] | None:
    return None if any(entry_name(Path(file)) is None for file in files) else files


def superseded(results: Results, names: Collection[str], shards: Mapping[str, int]) -> set[Path]:
    """Return the records of other numbers of shards, in folders where all of the current number exist.

    `names` are the models and completions of the configuration; records of others stay. `shards` has the current
    numbers, by the configuration's names.
    """
    total = {folder: shards[name] for folder, name in SHARDED.values()}
    found = set()
    for path in shard_records(results):
        number = total[path.parent.parent.name]
        current = {path.with_name(f"{index}-of-{number}.csv") for index in range(number)}
        if path.parent.name in names and path not in current and all(record.exists() for record in current):
            found.add(path)
    return found
