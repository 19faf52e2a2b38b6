"""Where everything lies in the results folder, and the records that list it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare23_lib.cache.entries import Item, Shard, StageFolder
from flare23_lib.choices import MODEL_FILE
from flare23_lib.errors import StoreError
from flare23_lib.io.atomic import read_json
from flare23_lib.io.tables import read_csv, write_csv


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
        """What describes a model in its bundle."""
        return self.bundle(model) / MODEL_FILE

    def shard(self, stage: str, name: str, shard: Shard) -> Path:
        """The record of a shard of `preprocessed`, `pseudo_labels`, `completed_labels` or `predictions`."""
        return self.root / stage / name / f"{shard}.csv"

    def gathered(self, stage: str, name: str) -> Path:
        """The record of all shards of `completed_labels` (conflicts) or `predictions`."""
        file = {"completed_labels": "conflicts.csv", "predictions": "predictions.csv"}[stage]
        return self.root / stage / name / file

    def summary(self, model: str) -> Path:
        """The scores of a model by class."""
        return self.root / "evaluation" / model / "summary.csv"

    def efficiency(self, model: str) -> Path:
        """What single cases took."""
        return self.root / "evaluation" / model / "efficiency.csv"

    def folder(self, stage: str, key: Mapping[str, Any]) -> StageFolder:
        """A stage's folder in the store under the fingerprint of a key."""
        return StageFolder(self.root / "store", stage, key)

    def relative(self, path: Path) -> str:
        """A path as records hold it."""
        return path.absolute().relative_to(self.root.absolute()).as_posix()

    def file(self, relative: str) -> Path:
        """The path of a file out of a record; StoreError if it is gone."""
        path = self.root / relative
        if not path.exists():
            raise StoreError(f"{path} is gone; run `flare23 store verify` and start again")
        return path

    def item(self, relative: str) -> Item:
        """The store's item that a file out of a record belongs to."""
        path = self.root / relative
        name = item_name(path)
        if name is None:
            raise StoreError(f"{path} is not a file of the store")
        return Item(path.parent, name)

    def measures(self, relative: str) -> Mapping[str, Any]:
        """What is noted of a file out of a record; StoreError if it is gone or damaged."""
        note = self.item(relative).read()
        if note is None:
            raise StoreError(f"{self.root / relative} is gone or damaged; run `flare23 store verify` and start again")
        return note["results"]


SHARDED = {
    "preprocess": ("preprocessed", "preprocessing"),
    "pseudo_label": ("pseudo_labels", "pseudo_labels"),
    "complete": ("completed_labels", "pseudo_labels"),
    "predict": ("predictions", "predictions"),
}
"""Rule -> folder of its records, and what the configuration calls the number of its shards."""


def item_name(path: Path) -> str | None:
    """Return the name of the store's item that a file belongs to; None if it belongs to none."""
    match = re.match(r".+\.[0-9a-f]{12}(?=\.)|model(?=\.)", path.name)
    return None if match is None else match.group()


def write_record(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a record, sorted by case."""
    write_csv(path, columns, sorted(rows, key=lambda row: row["case"]))


def read_shards(results: Results, stage: str, name: str, shards: int) -> list[dict[str, str]]:
    """Read the records of all shards of a stage, sorted by case; only those of this number of shards."""
    rows = [row for index in range(shards) for row in read_csv(results.shard(stage, name, Shard(index, shards)))]
    return sorted(rows, key=lambda row: row["case"])


def read_training(results: Results, model: str) -> dict[str, Any]:
    """Read the record that a model is trained; StoreError if it is not."""
    return read_json(results.training(model))
