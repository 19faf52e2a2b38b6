"""Atomic writes: a file is whole in its place, or not there."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from flare23_lib.errors import StoreError, without_file
from flare23_lib.io.checksum import checksum_file, is_as_kept, keep_checksum, without_checksum

try:
    import fcntl
except ImportError:  # Windows, whose locks would forbid the write itself: nothing is taken for abandoned there
    fcntl = None  # type: ignore[assignment]

TEMPORARY_MARK = ".partial-"
"""Beginning of the name of a file that is being written; this machine's number and random letters follow."""

THIS_MACHINE = f"{TEMPORARY_MARK}{zlib.crc32(platform.node().encode()):08x}-"
OURS = re.compile(re.escape(TEMPORARY_MARK) + "[0-9a-f]{8}-[0-9a-z_]{8}-")

UNTOUCHED_SECONDS = 3600
"""How long nothing has been written to another machine's file that is taken for abandoned."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it is synced and renamed into place, else removed.

    The temporary name keeps the file's suffixes, so that writers that look at them do the right thing, and fits
    wherever the file's own does. A writer must not replace the temporary file, whose mode and lock are its own. An
    error of the operating system names the file. A kill leaves the temporary file; the next process that writes into
    the folder removes it.
    """
    path = Path(path)
    with about_path(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent.absolute())
        held, temporary = _locked_temporary(path)
    _unfinished.add(temporary)
    try:
        with about_path(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts; what is left is removed by the next start
            temporary.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(temporary)
        held.close()


def sync(path: Path) -> None:
    """Have the operating system write a file to its disk."""
    with path.open("rb+") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())


def _locked_temporary(path: Path) -> tuple[IO[bytes], Path]:
    """Make a temporary file beside a path, locked to show that its writer lives; the open file holds the lock."""
    while True:
        temporary = _temporary(path)
        held = temporary.open("xb+")
        if not _lock(held):
            held.close()
        if temporary.exists():  # else another process took it for abandoned before it had its lock
            return held, temporary
        held.close()


def _lock(file: IO[bytes], wait: bool = True) -> bool:
    """Lock an open file; False if that cannot be, such as on a file system without locks.

    Raises:
        BlockingIOError: another open file holds the lock, and it is not waited for.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except (OSError, AttributeError):
        return False
    return True


@functools.cache  # once in a process
def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, and nothing that a process is writing.

    The lock of a file ends with its writer. Some file systems keep locks within a machine: other machines' files must
    have been left alone for an hour, too. A link, which has no lock, is made again by a process that misses it.
    """
    with contextlib.suppress(OSError):
        for path in [path for path in folder.glob(f"{TEMPORARY_MARK}*") if OURS.match(path.name)]:
            with contextlib.suppress(OSError):
                recent = time.time() - path.lstat().st_mtime < UNTOUCHED_SECONDS
                if path.is_symlink():
                    path.unlink()
                elif path.name.startswith(THIS_MACHINE) or not recent:
                    with path.open("rb+") as file:
                        if _lock(file, wait=False):
                            path.unlink()


def _temporary(path: Path) -> Path:
    """Return a temporary name beside a path, with the end of its name: a whole one may leave no room for the mark."""
    return path.with_name(f"{THIS_MACHINE}{secrets.token_hex(4)}-{path.name[-20:]}")


@contextlib.contextmanager
def about_path(path: Path) -> Iterator[None]:
    """Give errors of the operating system that name no file, or a temporary one, the path that is written."""
    try:
        yield
    except OSError as error:
        names = [Path(str(name)).name for name in (error.filename, error.filename2) if name is not None]
        if error.errno is not None and (not names or any(name.startswith(TEMPORARY_MARK) for name in names)):
            error.filename = str(path)
        raise


_unfinished: set[Path] = set()
"""What this process is writing."""


def remove_unfinished() -> None:
    """Remove what this process is writing; to be called when nothing but its end comes next."""
    for path in list(_unfinished):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_partial(folder: Path) -> None:
    """Remove what killed writers left half-written in and below a folder.

    A file whose writer holds its lock stays; links and folders have none, and must not be in the making.
    """
    for path in list(folder.rglob(TEMPORARY_MARK + "*")):
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            with contextlib.suppress(BlockingIOError, FileNotFoundError), path.open("rb+") as file:
                _lock(file, wait=False)
                path.unlink()


_with_checksums: ContextVar[frozenset[Path]] = ContextVar("with_checksums", default=frozenset())
"""Folders whose text files get a checksum beside them."""


@contextlib.contextmanager
def checksums_in(*folders: Path) -> Iterator[None]:
    """Keep a checksum (`io.checksum`) of each text file that is written directly in these folders."""
    token = _with_checksums.set(frozenset(folder.absolute() for folder in folders))
    try:
        yield
    finally:
        _with_checksums.reset(token)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically; the checksum of an earlier one is removed before."""
    path = Path(path)
    with about_path(path):
        checksum_file(path).unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    if path.absolute().parent in _with_checksums.get():
        with about_path(path):
            keep_checksum(path, text.encode())


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """Read a text file; StoreError if it is not as its checksum says, where one is kept.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    path = Path(path)
    content = path.read_bytes()
    if not is_as_kept(path, content):
        raise StoreError(
            f"{path} has changed since it was written (its checksum differs); run `flare23 verify`, then the "
            f"workflow. If the change is yours, delete {checksum_file(path)}"
        )
    return content.decode(encoding)


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically, indented, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file, without the checksum that it may have within; StoreError if it is missing or broken."""
    path = Path(path)
    try:
        return without_checksum(json.loads(read_text(path)))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; `flare23 verify` finds others") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({without_file(error)})") from error


def link_to(link: Path, target: Path) -> None:
    """Make (or turn) a relative symbolic link to a file of the results, whose folders may be links themselves."""
    target = target.absolute()
    relative = Path(os.path.relpath(target.parent.resolve() / target.name, link.parent.resolve()))
    if link.is_symlink() and link.readlink() == relative:
        return
    temporary = _temporary(link)
    with about_path(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(link.parent.absolute())
        try:
            made = False
            while not made:
                temporary.symlink_to(relative)
                with contextlib.suppress(FileNotFoundError):  # another process took it for abandoned
                    temporary.replace(link)
                    made = True
        except IsADirectoryError as error:
            raise StoreError(
                f"{link} is a folder where a link belongs: were the results copied with links followed? Delete it"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
