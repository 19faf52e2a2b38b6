"""Whether a job would only find that its work is done, asked before it is submitted.

Such a job need not wait for a GPU or for hours on a cluster. The answer is quick, not certain: files are looked for
by name and not opened. What is not known counts as work; a job that asked for too little asks for everything in its
next attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flare23_lib.cache.entries import Entry
from flare23_lib.cache.results import entry_name
from flare23_lib.errors import FlareError

_listings: dict[Path, tuple[int, set[str], set[str]]] = {}


def _listed(folder: Path) -> tuple[set[str], set[str]]:
    """Return of which entries a folder of the cache has metadata, and files; listed again only if it changed."""
    changed = folder.stat().st_mtime_ns
    if folder not in _listings or _listings[folder][0] != changed:
        names = list(folder.iterdir())
        metadata = {path.stem for path in names if path.suffix == ".json"}
        files = {entry_name(path) or "" for path in names if path.suffix != ".json"}
        _listings[folder] = changed, metadata, files
    return _listings[folder][1:]


class UpToDate:
    """Tells whether all entries of a job exist, once as long as its input files stay as they are.

    Args:
        entries: returns the entries of a job, given its wildcards; bad or missing input counts as work.
        has_files: whether the entries have files beside their metadata.
    """

    def __init__(self, entries: Callable[[Any], Iterable[Entry]], has_files: bool = True) -> None:
        self._entries = entries
        self._has_files = has_files
        self._known: dict[tuple, bool] = {}

    def __call__(self, wildcards: Sequence[str], files: Iterable[str]) -> bool:
        """Return the answer for a job: its wildcards and its input files."""
        try:
            key = (tuple(wildcards), tuple(Path(file).stat().st_mtime_ns for file in files))
            if key not in self._known:
                self._known[key] = all(map(self._is_there, self._entries(wildcards)))
        except (FlareError, OSError, KeyError, TypeError, ValueError):  # a record of another version lacks columns
            return False
        return self._known[key]

    def _is_there(self, entry: Entry) -> bool:
        metadata, files = _listed(entry.folder.path)
        name = entry.metadata_path.stem
        return name in metadata and (name in files or not self._has_files)
