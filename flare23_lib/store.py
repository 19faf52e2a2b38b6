"""Fingerprints, atomic writes, locks, shards and completion records: what makes long stages resumable.

A long stage keeps its heavy files in the store, `results/store/{stage}/{fingerprint}/`, where the fingerprint is
made of everything that shapes them: the stage's settings, the version of its algorithm, the digest of the model it
used. A case's file carries in its name a fingerprint of that case's own inputs. So what is there is right, what
is not there is to be made, a changed setting never meets a stale file, and one changed back finds the old one.

What a stage declares to the workflow is a *record*: one small CSV that lists its files, written last.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import importlib.util
import io
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from flare23_lib.errors import StoreError

log = logging.getLogger(__name__)

TEMPORARY_MARK = ".partial-"
"""Part of the name of a file that is being written."""

LOCK_INTERVAL = 0.05
"""Seconds between two attempts at a lock that another process holds."""


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


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it is synced and renamed into place, else removed.

    The temporary name keeps the file's suffixes, so that writers that look at them do the right thing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_MARK, suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        yield temporary
        with temporary.open("rb+") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(temporary)


_unfinished: set[Path] = set()
"""What this process is writing."""


def remove_unfinished() -> None:
    """Remove what this process is writing; to be called when nothing but its end comes next."""
    for path in list(_unfinished):
        with contextlib.suppress(OSError):
            path.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_partial(folder: Path) -> int:
    """Remove what killed writers left half-written in and below a folder; return the bytes that it freed.

    Nothing may be writing there.
    """
    freed = 0
    for path in list(folder.rglob(TEMPORARY_MARK + "*")):
        if path.is_dir() and not path.is_symlink():
            freed += sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
            shutil.rmtree(path)
        else:
            freed += path.lstat().st_size
            path.unlink()
    return freed


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically, indented, keys in the order given."""
    write_text(path, _json_text(content))


def _json_text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(path: str | Path) -> Any:
    """Read a JSON file; StoreError if it is missing or broken."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; `flare23 store verify` finds what else is") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error})") from error


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV file as a list of rows of strings; StoreError if it is missing, cannot be read or is none."""
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return list(csv.DictReader(handle))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; make it with the workflow first") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path} is not a CSV table") from error


@contextlib.contextmanager
def lock(path: str | Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for another holder to finish.

    Args:
        path: the lock file; made if missing and left where it is.
        waiting: called once, without arguments, if another process holds the lock.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = try_lock(path)
    if handle is None and waiting is not None:
        waiting()
    while handle is None:
        time.sleep(LOCK_INTERVAL)
        handle = try_lock(path)
    with handle:
        yield


def is_locked(path: Path) -> bool:
    """Say whether a process holds a lock on a file."""
    handle = try_lock(path)
    if handle is None:
        return True
    handle.close()
    return False


def try_lock(path: Path) -> IO[str] | None:
    """Lock a file, which is made if missing, unless another process or another open file of this one holds its lock.

    It is a lock of the operating system (flock, or LockFileEx on Windows) on the open file, so it ends with its
    process, however that ends, and there is nothing to remove by hand. The file stays where it is: a process that
    waits for a removed file would wait for another one than the next that opens it.

    Returns:
        The open file, which holds the lock until it is closed, here and in processes forked meanwhile; None if the
        lock is held already.

    Raises:
        StoreError: the file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        handle = stack.enter_context(path.open("a"))
        if not _has_locks() or _lock_open(handle):
            stack.pop_all()
            return handle
    return None


def _lock_open(handle: IO[str]) -> bool:
    import filelock  # only here: most commands need no lock, and it takes 30 ms

    try:
        return filelock.lock_descriptor(handle.fileno(), blocking=False)
    except OSError as error:
        raise StoreError(f"{handle.name}: its file system has no file locks ({error.strerror})") from error


@functools.cache
def _has_locks() -> bool:
    """Say whether this Python has locks that end with their process; a warning, once, says that it has none."""
    there = sys.platform == "win32" or importlib.util.find_spec("fcntl") is not None
    if not there:
        log.warning("this Python has no file locks (no module fcntl): run one command at a time in a folder")
    return there


def link_to(link: Path, target: Path) -> None:
    """Make (or turn) a relative symbolic link to a file of the results."""
    relative = Path(os.path.relpath(target, link.parent))
    if link.is_symlink() and link.readlink() == relative:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(8)}-{link.name}")
    temporary.symlink_to(relative)
    temporary.replace(link)


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
