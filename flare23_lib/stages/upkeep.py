"""Looking after the store: what is in it, whether it is whole, and what can go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flare23_lib.errors import StoreError
from flare23_lib.stages.results import Results
from flare23_lib.stages.status import Plan
from flare23_lib.store import TEMPORARY_MARK, Item, read_csv, read_json

RECORD_FOLDERS = ("preprocessed", "pseudo_labels", "completed_labels", "predictions")
GATHERED = ("conflicts.csv", "predictions.csv")
"""What gathering jobs write beside the records of their shards."""
FILE_COLUMNS = ("file", "image", "label")


@dataclass(frozen=True)
class Entry:
    """One folder of the store.

    Attributes:
        stage: the stage.
        fingerprint: of the folder.
        items: number of items.
        size: bytes in all.
        unused: what the configuration does not use: items' notes, or the folder itself if it is wholly unused.
        unused_size: bytes of that.
    """

    stage: str
    fingerprint: str
    path: Path
    items: int
    size: int
    unused: list[Path]
    unused_size: int


def records(results: Results) -> Iterator[tuple[Path, list[str]]]:
    """Yield every record with the files that it lists (relative to the results folder)."""
    for folder in RECORD_FOLDERS:
        for path in sorted((results.root / folder).glob("*/*-of-*.csv")):
            rows = read_csv(path)
            yield path, [row[column] for row in rows for column in FILE_COLUMNS if row.get(column)]
    for path in sorted((results.root / "training").glob("*/training.json")):
        yield path, [read_json(path)["weights"]]


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


def verify(results: Results) -> Verification:
    """Check every file that a record lists (size and last bytes), and withdraw records whose files are not whole."""
    checked = 0
    missing: list[Path] = []
    withdrawn: list[Path] = []
    known: dict[str, list[Path]] = {}
    for record, files in records(results):
        faults: list[Path] = []
        for file in files:
            if file not in known:
                checked += 1
                known[file] = _faults(results.item(file), results.root / file)
                missing += known[file]
            faults += known[file]
        if faults:
            gathered = [path for path in record.parent.glob("*.csv") if path.name in GATHERED]
            for path in [record, *gathered]:
                path.unlink(missing_ok=True)
                withdrawn.append(path)
    return Verification(checked, list(dict.fromkeys(missing)), withdrawn)


def _faults(item: Item, file: Path) -> list[Path]:
    try:
        note = read_json(item.note_path)
    except StoreError:
        return [item.note_path if file.exists() else file]
    return item.missing(note)


def entries(results: Results, plan: Plan) -> list[Entry]:
    """List the store's folders, with what neither the configuration nor any record uses."""
    recorded = {results.item(file).note_path for _, files in records(results) for file in files}
    used = plan.used | recorded
    used_folders = plan.used_folders | {note.parent for note in recorded}
    found = []
    for folder in sorted((results.root / "store").glob("*/*")):
        if not (folder / "about.json").exists():
            continue
        stage = folder.parent.name
        size = _size(folder)
        if stage == "training":
            unused = [] if folder in used_folders else [folder]
            found.append(Entry(stage, folder.name, folder, 1, size, unused, size if unused else 0))
            continue
        notes = [path for path in folder.glob("*.json") if path.name != "about.json"]
        idle = [note for note in notes if note not in used]
        idle_size = sum(path.stat().st_size for note in idle for path in _files_of(note))
        wholly = len(idle) == len(notes)
        unused, unused_size = ([folder], size) if wholly else (idle, idle_size)
        found.append(Entry(stage, folder.name, folder, len(notes), size, unused, unused_size))
    return found


def _files_of(note: Path) -> list[Path]:
    name = note.name.removesuffix(".json")
    return [path for path in note.parent.iterdir() if path.name.startswith(name + ".")]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def clean(results: Results, plan: Plan) -> int:
    """Delete what `entries` calls unused, and what was left half-written; return the bytes that it freed."""
    freed = 0
    for entry in entries(results, plan):
        freed += entry.unused_size
        for path in entry.unused:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                for file in _files_of(path):
                    file.unlink()
    for path in results.root.rglob(TEMPORARY_MARK + "*"):
        freed += path.lstat().st_size
        path.unlink()
    return freed


def format_entries(found: list[Entry]) -> str:
    """Return the entries as a table for the terminal."""
    lines = [f"{'stage':<22}{'fingerprint':<18}{'items':>7}{'MB':>10}{'unused MB':>11}"]
    for entry in found:
        megabytes, unused = entry.size / 1e6, entry.unused_size / 1e6
        lines.append(f"{entry.stage:<22}{entry.fingerprint:<18}{entry.items:>7}{megabytes:>10.1f}{unused:>11.1f}")
    return "\n".join(lines)
