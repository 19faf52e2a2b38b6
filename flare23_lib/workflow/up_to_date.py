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
from flare23_lib.errors import FlareError

_listings: dict[Path, tuple[int, set[str]]] = {}


def _names(folder: Path) -> set[str]:
    """Return the names in a folder of the cache, which is listed again only after it changed."""
    changed = folder.stat().st_mtime_ns
    if folder not in _listings or _listings[folder][0] != changed:
        _listings[folder] = changed, {path.name for path in folder.iterdir()}
    return _listings[folder][1]


class UpToDate:
    """Tells whether all entries of a job exist, once as long as its input files stay as they are.

    Args:
        entries: returns the entries of a job, given its wildcards; bad or missing input counts as work.
    """

    def __init__(self, entries: Callable[[Any], Iterable[Entry]]) -> None:
        self._entries = entries
        self._known: dict[tuple, bool] = {}

    def __call__(self, wildcards: Sequence[str], files: Iterable[str]) -> bool:
        """Return the answer for a job: its wildcards and its input files."""
        try:
            key = (tuple(wildcards), tuple(Path(file).stat().st_mtime_ns for file in files))
            if key not in self._known:
                entries = self._entries(wildcards)
                self._known[key] = all(entry.metadata_path.name in _names(entry.folder.path) for entry in entries)
        except (FlareError, OSError, KeyError, TypeError, ValueError):  # a record of another version lacks columns
            return False
        return self._known[key]
