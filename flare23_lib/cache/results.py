"""Where everything is in the results folder, and the records that list files of the cache."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare23_lib.cache.entries import CacheFolder, Entry, Shard
from flare23_lib.choices import MODEL_FILE
from flare23_lib.errors import StoreError, listed
from flare23_lib.io.atomic import link_to
from flare23_lib.io.tables import read_csv, write_csv

REMEDY = "run `flare23 verify`, then the workflow"
DEEP_REMEDY = "run `flare23 verify --deep`, then the workflow"

SHARDED = {
    "preprocess": ("preprocessed", "preprocessing"),
    "pseudo_label": ("pseudo_labels", "pseudo_labels"),
    "complete": ("completed_labels", "pseudo_labels"),
    "predict": ("predictions", "predictions"),
}
"""Rule -> folder of its records, and the configuration's name for the number of its shards."""

COLLECTED = {"completed_labels": "conflicts.csv", "predictions": "predictions.csv"}
"""Folder of shards' records -> the record of all shards."""


@dataclass(frozen=True)
class Results:
    """The results folder. Paths in records are relative to it."""

    root: Path

    @property
    def cases(self) -> Path:
        """The table of cases."""
        return self.root / "cohort" / "cases.csv"

    @property
    def scan_memory(self) -> Path:
        """The file in which the scan remembers what it has read."""
        return self.root / "store" / "scan" / "files.jsonl"

    def training(self, model: str) -> Path:
        """The record that a model is trained."""
        return self.root / "training" / model / "training.json"

    def bundle(self, model: str) -> Path:
        """The folder of a model's bundle."""
        return self.root / "models" / model

    def model_file(self, model: str) -> Path:
        """The description of a model in its bundle."""
        return self.bundle(model) / MODEL_FILE

    def shard(self, stage: str, name: str, shard: Shard) -> Path:
        """The record of a shard of `preprocessed`, `pseudo_labels`, `completed_labels` or `predictions`."""
        return self.root / stage / name / f"{shard}.csv"

    def collected(self, stage: str, name: str) -> Path:
        """The record of all shards of `completed_labels` or `predictions`."""
        return self.root / stage / name / COLLECTED[stage]

    def summary(self, model: str) -> Path:
        """The scores of a model by class."""
        return self.root / "evaluation" / model / "summary.csv"

    def cache(self, stage: str, key: Mapping[str, Any]) -> CacheFolder:
        """A stage's folder of the cache under the fingerprint of a key."""
        return CacheFolder.of(self.root / "store", stage, key)

    def relative(self, path: Path) -> str:
        """A path as records hold it."""
        return path.absolute().relative_to(self.root.absolute()).as_posix()

    def file(self, relative: str) -> Path:
        """The path of a file from a record; StoreError if it is missing."""
        path = self.root / relative
        if not path.exists():
            raise StoreError(f"{path} is missing; {REMEDY}")
        return path

    def entry(self, relative: str) -> Entry:
        """The cache's entry that a file from a record belongs to; StoreError if it belongs to none."""
        path = self.root / relative
        name = entry_name(path)
        if name is None:
            raise StoreError(f"{path} is not a file of the cache")
        return Entry(CacheFolder(path.parent), name)

    def metadata(self, relative: str) -> Mapping[str, Any]:
        """The results in the metadata of a file from a record; StoreError if it is missing or damaged, or OSError."""
        entry = self.entry(relative)
        metadata = entry.metadata()
        if metadata is None or entry.broken_files(metadata):
            raise StoreError(f"{self.root / relative} is missing or damaged; {REMEDY}")
        return metadata["results"]

    def require_whole(self, files: Sequence[str], threads: int = 1) -> None:
        """Read files from records whole and compare them with their checksums; StoreError names one that is damaged.

        OSError names one that cannot be read.
        For readers that notice no flipped bit, or do not end on one, such as blosc2's.
        """

        def broken(file: str) -> list[Path]:
            entry = self.entry(file)
            metadata = entry.metadata()
            return [self.root / file] if metadata is None else entry.broken_files(metadata, deep=True)

        with ThreadPoolExecutor(threads) as pool:
            for path in (path for paths in pool.map(broken, files) for path in paths):
                raise StoreError(f"{path} is missing or damaged; {DEEP_REMEDY}")


def entry_name(path: Path) -> str | None:
    """Return the name of the cache's entry that a file belongs to; None if it belongs to none."""
    match = re.match(r".+\.[0-9a-f]{12}(?=\.)|model(?=\.)", path.name)
    return None if match is None else match.group()


def write_record(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a record, sorted by case."""
    write_csv(path, columns, sorted(rows, key=lambda row: row["case"]))


def read_shards(results: Results, stage: str, name: str, shards: int) -> list[dict[str, str]]:
    """Read the records of all shards of a stage, sorted by case; only those of this number of shards."""
    rows = [row for index in range(shards) for row in read_csv(results.shard(stage, name, Shard(index, shards)))]
    return sorted(rows, key=lambda row: row["case"])


def collect(results: Results, stage: str, name: str, shards: int, cases: Sequence[str]) -> list[dict[str, str]]:
    """Check that all cases are in the shards' records, link their files by plain names, and return the rows, sorted.

    `{case}.nii.gz` beside the record of all shards leads to each case's file; links of other cases are removed.

    Raises:
        StoreError: a case is in no record, or its file is missing.
    """
    rows = {row["case"]: row for row in read_shards(results, stage, name, shards)}
    missing = [case for case in cases if case not in rows]
    if missing:
        raise StoreError(
            f"{stage} of {name}: {len(missing)} of {len(cases)} cases are in no record: {listed(missing)}"
        )
    chosen = [rows[case] for case in sorted(cases)]
    folder = results.collected(stage, name).parent
    links = {folder / f"{row['case']}.nii.gz": results.file(row["file"]) for row in chosen}
    for path in folder.glob("*.nii.gz"):
        if path.is_symlink() and path not in links:
            path.unlink()
    for link, target in links.items():
        link_to(link, target)
    return chosen
