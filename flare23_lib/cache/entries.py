"""Kept results: an entry per case, in a folder per setting.

A stage keeps its heavy files in `results/store/{stage}/{fingerprint}/`. The fingerprint is a hash of everything that
shapes them: the stage's settings, the version of its algorithm, the digest of the model. A case's files have in their
name a hash of the case's own inputs. So a file that exists is valid, a missing one is to be made, a changed setting
never finds an old file, and one that is changed back finds the files of before.

What a job declares to Snakemake is a *record* (`cache.results`): a small table that lists files, written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flare23_lib.io.atomic import about_path, write_json
from flare23_lib.io.checksum import crc32_of, with_checksum, without_checksum
from flare23_lib.io.locks import lock

log = logging.getLogger(__name__)

METADATA_KEYS = {"inputs", "files", "results"}

MANIFEST = "manifest.json"
"""File of a folder's key."""

Metadata = dict[str, Any]
"""`inputs`, `files` (suffix -> checksum) and `results` of an entry."""


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the parts as canonical JSON (keys sorted)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Shard:
    """A part of a stage's cases, by a hash of their names, written `2-of-8`, counted from 0."""

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
        return int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big") % self.total == self.index

    def __str__(self) -> str:
        return f"{self.index}-of-{self.total}"


def checksum(path: Path, deep: bool = False) -> list:
    """Return a file's size and last 8 bytes (for gzip: CRC and length) and, if it is read whole, its CRC."""
    with about_path(path), path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - 8))
        found: list = [size, handle.read(8).hex()]
        if deep:
            found.append(crc32_of(handle))
        return found


@dataclass(frozen=True)
class CacheFolder:
    """The folder of one stage under one fingerprint, which is made of `key`."""

    path: Path
    key: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, root: Path, stage: str, key: Mapping[str, Any]) -> CacheFolder:
        """Return the folder of a stage under the fingerprint of a key."""
        return cls(root / stage / fingerprint(stage, dict(key)), key)

    @property
    def fingerprint(self) -> str:
        """The fingerprint."""
        return self.path.name

    def create(self) -> CacheFolder:
        """Make the folder and its manifest, which holds the key."""
        manifest = self.path / MANIFEST
        if not manifest.exists():
            stage = self.path.parent.name
            write_json(manifest, {"stage": stage, "fingerprint": self.fingerprint, "key": dict(self.key)})
        return self

    def read_key(self) -> Mapping[str, Any] | None:
        """Return the key of a folder that exists; None if its manifest is missing or damaged."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            stage, key = manifest["stage"], manifest["key"]
            is_right = self.path.parts[-2:] == (stage, manifest["fingerprint"]) == (stage, fingerprint(stage, key))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return key if is_right else None

    def entry(self, case: str, inputs: Mapping[str, Any]) -> Entry:
        """Return the entry of a case for these inputs, whether or not it exists."""
        return Entry(self, f"{case}.{fingerprint(dict(inputs))[:12]}", inputs)

    def lock(self, name: object) -> contextlib.AbstractContextManager[None]:
        """Hold one of the folder's locks, such as a shard's; the log tells if another job holds it."""
        return lock(self.path / f".lock-{name}", lambda: log.info("waiting for another job in %s", self.path))


@dataclass(frozen=True)
class Entry:
    """One case's files in a folder, and the metadata beside them that are written last.

    Its name is the case and the hash of the inputs, which the files are made from. The metadata, `{name}.json`, hold
    the inputs, a checksum of each file, and the small results that records are made of, so that a lost record is made
    again without computing.
    """

    folder: CacheFolder
    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def file(self, suffix: str) -> Path:
        """Return the path of the file with a suffix such as `.nii.gz`."""
        return self.folder.path / (self.name + suffix)

    @property
    def metadata_path(self) -> Path:
        """Path of the metadata."""
        return self.file(".json")

    def load(self) -> Metadata | None:
        """Return the metadata if the entry is complete, otherwise None: also if a file of it cannot be read."""
        metadata = self.metadata()
        try:
            return metadata if metadata is not None and not self.broken_files(metadata) else None
        except OSError:
            return None

    def metadata(self) -> Metadata | None:
        """Return the metadata, whether or not the files exist; None without them, or if a bit of them has changed.

        Raises:
            OSError: they cannot be read.
        """
        try:
            with about_path(self.metadata_path):
                metadata = without_checksum(json.loads(self.metadata_path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            return None
        return metadata if isinstance(metadata, dict) and set(metadata) == METADATA_KEYS else None

    def broken_files(self, metadata: Metadata, deep: bool = False) -> list[Path]:
        """Return the listed files that are missing or not as they were written; OSError if one cannot be read.

        With `deep` files are read whole; those of version 0.1 have no checksum for that.
        """

        def is_broken(suffix: str, expected: list) -> bool:
            try:
                found = checksum(self.file(suffix), deep=deep and len(expected) > 2)
            except FileNotFoundError:
                return True
            return found != expected[: len(found)]

        return [self.file(suffix) for suffix, expected in metadata["files"].items() if is_broken(suffix, expected)]

    def save(self, suffixes: Iterable[str], results: Mapping[str, Any]) -> Metadata:
        """Write the metadata of files that are in place, and return them."""
        files = {suffix: checksum(self.file(suffix), deep=True) for suffix in suffixes}
        metadata = {"inputs": dict(self.inputs), "files": files, "results": dict(results)}
        write_json(self.metadata_path, with_checksum(metadata))
        return metadata

    def load_or_make(self, lock_name: object, make: Callable[[Entry], Metadata]) -> tuple[Metadata, bool]:
        """Return the metadata, from `make` (which saves the entry) if it is not complete, and whether it was made."""
        if metadata := self.load():
            return metadata, False
        with self.folder.create().lock(lock_name):
            if metadata := self.load():
                return metadata, False
            return make(self), True
