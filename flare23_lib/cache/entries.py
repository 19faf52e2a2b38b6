"""Fingerprints, atomic writes, locks, shards and completion records: what makes long stages resumable.

A long stage keeps its heavy files in the store, `results/store/{stage}/{fingerprint}/`, where the fingerprint is
made of everything that shapes them: the stage's settings, the version of its algorithm, the digest of the model it
used. A case's file carries in its name a fingerprint of that case's own inputs. So what is there is right, what
is not there is to be made, a changed setting never meets a stale file, and one changed back finds the old one.

What a stage declares to the workflow is a *record*: one small CSV that lists its files, written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flare23_lib.io.atomic import write_json
from flare23_lib.io.locks import lock


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the parts as canonical JSON (keys sorted, numbers as given)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shard_of(case: str, shards: int) -> int:
    """Return the shard (0 to shards - 1) of a case; the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big") % shards


@dataclass(frozen=True)
class Shard:
    """One of several parts of a stage's cases, by a hash of their names, written `2-of-8`, counted from 0."""

    index: int = 0
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `index-of-total`; ValueError if it is not that."""
        index, _, total = text.partition("-of-")
        shard = cls(int(index), int(total))
        if not 0 <= shard.index < shard.total:
            raise ValueError(f"{text!r} is not a shard such as 0-of-4")
        return shard

    def __contains__(self, case: str) -> bool:
        return shard_of(case, self.total) == self.index

    def __str__(self) -> str:
        return f"{self.index}-of-{self.total}"


def file_mark(path: Path) -> list:
    """Return what `verify` compares: the size and the last 8 bytes (for gzip: CRC and length)."""
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - 8))
        return [size, handle.read(8).hex()]


@dataclass(frozen=True)
class Item:
    """One case's files in a stage's folder, and the note beside them that says they are whole.

    The note, `{name}.json`, is written after the files. It holds the inputs, each file's size and last bytes, and
    the small results that go into records, so that a lost record is made again without computing.
    """

    folder: Path
    name: str

    def file(self, suffix: str) -> Path:
        """Path of the item's file with a suffix such as `.nii.gz`."""
        return self.folder / (self.name + suffix)

    @property
    def note_path(self) -> Path:
        """Path of the note."""
        return self.file(".json")

    def read(self) -> dict[str, Any] | None:
        """Return the note if the item is whole, otherwise None."""
        note = self.note()
        return note if note is not None and not self.missing(note) else None

    def note(self) -> dict[str, Any] | None:
        """Return the note, whether or not the files are there; None without one."""
        try:
            return json.loads(self.note_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def missing(self, note: Mapping[str, Any]) -> list[Path]:
        """Return the files that the note lists and that are not there as they were written."""
        faults = []
        for suffix, mark in note["files"].items():
            path = self.file(suffix)
            try:
                if file_mark(path) != mark:
                    faults.append(path)
            except OSError:
                faults.append(path)
        return faults

    def finish(
        self, suffixes: Iterable[str], inputs: Mapping[str, Any], results: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the note for files that lie in place, and return it."""
        note = {
            "inputs": dict(inputs),
            "files": {suffix: file_mark(self.file(suffix)) for suffix in suffixes},
            "results": dict(results),
        }
        write_json(self.note_path, note)
        return note


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage under one fingerprint."""

    root: Path
    stage: str
    key: Mapping[str, Any]
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", fingerprint(self.stage, dict(self.key)))

    @property
    def path(self) -> Path:
        """Where the files lie."""
        return self.root / self.stage / self.fingerprint

    def create(self) -> StageFolder:
        """Make the folder and, in it, `about.json`: what the fingerprint was made of."""
        about = self.path / "about.json"
        if not about.exists():
            write_json(about, {"stage": self.stage, "fingerprint": self.fingerprint, "key": dict(self.key)})
        return self

    def item(self, case: str, inputs: Mapping[str, Any]) -> Item:
        """Return the item of a case for these inputs (whether it is there or not)."""
        return Item(self.path, f"{case}.{fingerprint(dict(inputs))[:12]}")

    def lock(
        self, name: object, waiting: Callable[[], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Hold one of the folder's locks: that of a shard, or of one purpose's shard where several share a folder."""
        return lock(self.path / f".lock-{name}", waiting)
