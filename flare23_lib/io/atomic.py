"""Atomic writes: a file is whole in its place, or not there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from flare23_lib.errors import StoreError
from flare23_lib.io.checksum import checksum_file, is_as_kept, keep_checksum, without_checksum

TEMPORARY_MARK = ".partial-"
"""Part of the name of a file that is being written."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it is synced and renamed into place, else removed.

    The temporary name keeps the file's suffixes, so that writers that look at them do the right thing, and fits
    wherever the file's own does. An error of the operating system names the file.
    """
    path = Path(path)
    with about_path(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY_MARK, suffix="-" + _ending(path), dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        with about_path(path):
            yield temporary
            with temporary.open("rb+") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # some file systems have no permissions to set
                temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts; what is left is removed by the next start
            temporary.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(temporary)


def _ending(path: Path) -> str:
    """Return the end of a file's name for its temporary name: a whole name may leave no room for the mark."""
    return path.name if len(path.name) <= 20 else path.name[-20:]


@contextlib.contextmanager
def about_path(path: Path) -> Iterator[None]:
    """Give errors of the operating system that name no file, or a temporary one, the path that is written."""
    try:
        yield
    except OSError as error:
        named = Path(os.fsdecode(error.filename)).name if isinstance(error.filename, (str, bytes)) else ""
        if error.errno is not None and (not named or named.startswith(TEMPORARY_MARK)):
            error.filename = str(path)
        raise


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
    write_text(path, _json_text(content))


def _json_text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(path: str | Path) -> Any:
    """Read a JSON file, without the checksum that it may have within; StoreError if it is missing or broken."""
    path = Path(path)
    try:
        return without_checksum(json.loads(read_text(path)))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; `flare23 verify` finds others") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error})") from error


def link_to(link: Path, target: Path) -> None:
    """Make (or turn) a relative symbolic link to a file of the results."""
    relative = Path(os.path.relpath(target, link.parent))
    if link.is_symlink() and link.readlink() == relative:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(8)}-{_ending(link)}")
    with about_path(link):
        temporary.symlink_to(relative)
        try:
            temporary.replace(link)
        except IsADirectoryError as error:
            raise StoreError(
                f"{link} is a folder where a link belongs: were the results copied with links followed? Delete it"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
