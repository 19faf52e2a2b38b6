"""`flare23 clean`: delete files of the cache that neither the configuration nor a record uses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from flare23_lib import versions
from flare23_lib.cache.entries import MANIFEST, CacheFolder
from flare23_lib.cache.records import records, superseded
from flare23_lib.cache.results import REMEDY, Results, entry_name
from flare23_lib.config import Config
from flare23_lib.errors import StoreError
from flare23_lib.io.atomic import remove_partial
from flare23_lib.io.locks import is_locked
from flare23_lib.nnunet.training_job import CHECKPOINTS, FINAL
from flare23_lib.workflow.status import Plan


def is_unfinished(folder: Path) -> bool:
    """Return whether a folder of the cache is of a training that has checkpoints and no final weights."""
    return not (folder / f"{FINAL}.json").exists() and any((folder / CHECKPOINTS).glob("*.pth"))


def unused(results: Results, plan: Plan, config: Config) -> list[Path]:
    """Return the unused files and folders of the cache, and the records of other numbers of shards.

    Unfinished trainings (`is_unfinished`) that the plan does not use are among them; the cohort may be another one
    just now.

    Raises:
        StoreError: a record is broken; or a step of the plan depends on a result that does not exist yet, so that
            unfinished work could not be told from unused files.
    """
    if plan.unknown:
        raise StoreError(
            f"{plan.unknown[0]} and what follows is not known yet; finish the run first (`flare23 status` lists it). "
            "Nothing was deleted"
        )
    old = superseded(results, {*config.models, *config.completions}, dict(config.shards))
    used, used_folders = set(plan.used), set(plan.used_folders)
    for record, files in records(results):
        if files is None:
            raise StoreError(f"{record} is broken; {REMEDY}")
        if record not in old:
            entries = [results.entry(file) for file in files]
            used |= {entry.metadata_path for entry in entries}
            used_folders |= {entry.folder.path for entry in entries}
    found = sorted(old)
    for folder in sorted((results.root / "store").glob("*/*/")):
        if not re.fullmatch("[0-9a-f]{16}", folder.name):
            continue
        if folder.parent.name in ("training", "efficiency"):
            found += [] if folder in used_folders else [folder]
            continue
        if _may_be_of_others(folder):
            continue
        metadata = {path for path in folder.glob("*.json") if path.name != MANIFEST}
        if not metadata & used:
            found.append(folder)
        elif idle := {path.stem for path in metadata - used}:
            found += [path for path in sorted(folder.iterdir()) if entry_name(path) in idle]
    return found


def _may_be_of_others(folder: Path) -> bool:
    """Return whether a folder is of measured intensities, which no record lists, in their current version.

    What other configurations use of them cannot be told from unused files.
    """
    if folder.parent.name != "intensities":
        return False
    return (CacheFolder(folder).read_key() or {}).get("version") == versions.INTENSITY


def refuse_under_way(results: Results) -> None:
    """Raise StoreError if a job works in the cache, or Snakemake in this folder."""
    if any(Path(".snakemake/locks").glob("*.lock")):
        raise StoreError(
            "Snakemake works in this folder, or was killed in it (then: `snakemake --unlock`); nothing was deleted"
        )
    # Locks hold across machines where the file system keeps flock.
    for lock in (results.root / "store").glob("*/*/.lock*"):
        if is_locked(lock):
            raise StoreError(f"a job works in {lock.parent}; nothing was deleted")


def clean(results: Results, paths: list[Path]) -> None:
    """Delete `unused` paths, and files that were left half-written; StoreError if work is under way."""
    refuse_under_way(results)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for folder in (results.root, *(results.root / "store").glob("*/")):  # rglob enters no folder that is a link
        remove_partial(folder)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
