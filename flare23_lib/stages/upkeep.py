"""Looking after the store: what is in it, and what can go."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from flare23_lib.stages.results import Results
from flare23_lib.stages.status import Plan
from flare23_lib.stages.verification import records
from flare23_lib.store import TEMPORARY_MARK


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
