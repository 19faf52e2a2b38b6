"""Looking after the store: what is in it, and what can go."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flare23_lib.cache.results import Results, item_name
from flare23_lib.dataset.cases import Case, read_cases
from flare23_lib.errors import StoreError
from flare23_lib.io.atomic import remove_partial
from flare23_lib.io.locks import is_locked
from flare23_lib.workflow.status import Plan
from flare23_lib.workflow.verify import records, superseded


@dataclass(frozen=True)
class Entry:
    """One folder of the store.

    Attributes:
        stage: the stage.
        fingerprint: of the folder.
        items: number of items.
        size: bytes in all.
        unused: what the configuration does not use: files, or the folder itself if it is wholly unused.
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
    """List the store's folders, with what neither the configuration nor any record uses.

    Nothing is called unused as long as something is gone that says what follows from it (`Plan.unknown`): half-done
    work that waits for it could not be told from what is left over.
    """
    recorded = set()
    left = superseded(results, plan.records)
    for record, files in records(results):
        if files is None:
            raise StoreError(f"{record} is broken; run `flare23 store verify` first")
        if record in left:
            continue
        recorded |= {results.item(file).note_path for file in files}
    used = plan.used | recorded
    used_folders = plan.used_folders | {note.parent for note in recorded}
    found = []
    for folder in sorted((results.root / "store").glob("*/*")):
        if not (folder / "about.json").exists():
            continue
        stage = folder.parent.name
        size = _size(folder)
        if stage in ("training", "efficiency"):
            notes, idle = [folder], [] if folder in used_folders else [folder]
        else:
            notes = [path for path in folder.glob("*.json") if path.name != "about.json"]
            idle = [note for note in notes if note not in used]
        if plan.unknown:
            unused = []
        elif len(idle) == len(notes):
            unused = [folder]
        else:
            unused = _files_of(idle)
        unused_size = sum(map(_size, unused))
        found.append(Entry(stage, folder.name, folder, len(notes), size, unused, unused_size))
    return found


def _files_of(notes: Sequence[Path]) -> list[Path]:
    """Return the files of a folder's items, the notes among them."""
    if not notes:
        return []
    names = {note.name.removesuffix(".json") for note in notes}
    return [path for path in notes[0].parent.iterdir() if item_name(path) in names]


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def refuse_while_in_use(results: Results) -> None:
    """Raise StoreError if a job works in the store, or Snakemake in this folder.

    Jobs are asked by their locks, which hold across machines where the file system keeps flock.
    """
    if any(Path(".snakemake/locks").glob("*.lock")):
        raise StoreError(
            "Snakemake works in this folder, or was killed in it (then: `snakemake --unlock`); nothing was deleted"
        )
    if (place := _in_use(results.root / "store")) is not None:
        raise StoreError(f"a job works in {place}; nothing was deleted")


def refuse_if_cases_left(results: Results, plan: Plan) -> None:
    """Raise StoreError if cases are not now what they were in the last run: half-done work would count as unused.

    A folder may be missing only for the moment, as when a disk is not mounted. Once the workflow has listed the
    cohort as it is, the cases are what it says.
    """
    if not results.cases.exists():
        return

    def kind(case: Case) -> tuple:
        return case.case, case.split, case.category, case.label is None

    now = {kind(case) for case in plan.survey.cases if case.usable}
    gone = [case.case for case in read_cases(results.cases) if case.usable and kind(case) not in now]
    if gone:
        listed = ", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
        raise StoreError(
            f"{len(gone)} cases of the last run are gone or not what they were: {listed}; nothing was deleted (if "
            "that is meant, let the workflow make the target `cohort` first)"
        )


def _in_use(folder: Path) -> Path | None:
    """Return a folder, this one or one below it, in which a job works; None if there is none."""
    return next((path.parent for path in folder.rglob(".lock*") if is_locked(path)), None)


def clean(results: Results, plan: Plan) -> int:
    """Delete what `entries` calls unused, and what was left half-written; return the bytes that it freed.

    Raises:
        StoreError: something works there, or cases of the last run cannot be seen now.
    """
    refuse_while_in_use(results)
    refuse_if_cases_left(results, plan)
    left = set() if plan.unknown else superseded(results, plan.records)
    freed = 0
    for entry in entries(results, plan):
        if entry.unused and (place := _in_use(entry.path)) is not None:  # one may have begun since
            raise StoreError(f"a job works in {place}; what is unused there and after it was not deleted")
        freed += entry.unused_size
        for path in entry.unused:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for record in left:
        record.unlink()
    return freed + remove_partial(results.root)


def format_entries(found: list[Entry]) -> str:
    """Return the entries as a table for the terminal."""
    lines = [f"{'stage':<22}{'fingerprint':<18}{'items':>7}{'MB':>10}{'unused MB':>11}"]
    for entry in found:
        megabytes, unused = entry.size / 1e6, entry.unused_size / 1e6
        lines.append(f"{entry.stage:<22}{entry.fingerprint:<18}{entry.items:>7}{megabytes:>10.1f}{unused:>11.1f}")
    return "\n".join(lines)
