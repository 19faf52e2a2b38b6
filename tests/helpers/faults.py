"""Calls of the operating system that fail, or end the process, at the N-th of them.

`Shim` replaces what Python code calls: `open` (with writes and reads of its files) and the functions of `os` below,
for paths within one folder. It does not see

- files that compiled code opens itself: reading safetensors and blosc2 (both map files into memory), SimpleITK. Those
  are written through Python's files;
- `stat` and its kin, `close`, locks;
- what a power cut leaves: only the process ends, what it has written stays.

A write that is hit has written half of its bytes.

`flip` is what a disk does to a file that lies there.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["write", "read"]

MUTATING = (
    "mkdir",
    "rmdir",
    "rename",
    "replace",
    "link",
    "symlink",
    "unlink",
    "remove",
    "chmod",
    "truncate",
    "fsync",
)
READING = ("listdir", "scandir", "readlink")
ERRORS = {"write": errno.ENOSPC, "read": errno.EIO}
DESCRIPTOR_CALLS = ("fsync", "sendfile", "write", "read")
"""Calls whose errors name no file."""


@dataclass(frozen=True)
class Fault:
    """What happens at a call: the N-th of its kind (from 0) raises an error, or ends the process."""

    kind: Kind
    number: int
    kill: bool = False


class Shim:
    """Counts the calls within a folder, and lets one of them fail.

    Attributes:
        calls: kind, name and path of each call so far.
    """

    def __init__(self, folder: Path, fault: Fault | None = None) -> None:
        self.folder = str(folder)
        self.fault = fault
        self.calls: list[tuple[Kind, str, str]] = []
        self._counts = {"write": 0, "read": 0}
        self._lock = threading.Lock()
        self._real_open, self._readlink = io.open, os.readlink

    def install(self) -> None:
        """Replace the functions, until the process ends."""
        builtins.open = io.open = self._open
        for kind, names in ("write", MUTATING), ("read", READING):
            for name in names:
                setattr(os, name, self._wrapped(kind, name, getattr(os, name)))

    def watches(self, place: Any) -> str | None:
        """Return the path of a file or descriptor in the folder; None for others."""
        try:
            path = self._readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.fsdecode(place)
        except (OSError, TypeError):
            return None
        path = os.path.abspath(path)  # noqa: PTH100 (links are not followed)
        return path if path.startswith(self.folder + os.sep) else None

    def call(self, kind: Kind, name: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """Count a call, and end it or the process if it is its turn; `half` does a part of it before."""
        with self._lock:
            self.calls.append((kind, name, path))
            number = self._counts[kind]
            self._counts[kind] += 1
        if self.fault is None or (self.fault.kind, self.fault.number) != (kind, number):
            return
        half()
        if self.fault.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        names = () if name in DESCRIPTOR_CALLS else (path,)
        raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), *names)

    def _wrapped(self, kind: Kind, name: str, function: Callable) -> Callable:
        place = 1 if name in ("link", "symlink") else 0

        def called(*arguments, **options):
            given = arguments[place] if len(arguments) > place else "."
            relative = options.get("dir_fd") is not None and not Path(given).is_absolute()
            path = self.watches(options["dir_fd"] if relative else given)
            if path is not None:
                reads = name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                self.call("read" if reads else kind, name, path)
            return function(*arguments, **options)

        return called

    def _open(
        self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None
    ):
        """Open as Python does, through a file whose writes and reads are counted."""
        path = self.watches(file)
        if path is None:
            return self._real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw_mode = mode.replace("b", "").replace("t", "")
        if not isinstance(file, int):
            self.call("read" if raw_mode == "r" else "write", "open", path)
        raw = _File(self, path, file, raw_mode, closefd, opener)
        buffered: Any = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        buffer = raw if buffering == 0 else buffered(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
        if "b" in mode:
            return buffer
        text = io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        return text


def flip(path: Path, place: int, mask: int = 1) -> None:
    """Flip bits of a byte of a file, in place; a place below 0 counts from the end."""
    content = bytearray(path.read_bytes())
    content[place] ^= mask
    path.write_bytes(content)


class _File(io.FileIO):
    def __init__(self, shim: Shim, path: str, *arguments) -> None:
        super().__init__(*arguments)
        self._shim, self._path = shim, path

    def write(self, data):
        view = memoryview(data).cast("B")
        self._shim.call("write", "write", self._path, lambda: super(_File, self).write(view[: len(view) // 2]))
        return super().write(data)

    def truncate(self, size=None):
        self._shim.call("write", "truncate", self._path)
        return super().truncate(size)

    def readinto(self, buffer):
        self._shim.call("read", "read", self._path)
        return super().readinto(buffer)

    def read(self, size=-1):
        self._shim.call("read", "read", self._path)
        return super().read(size)

    def readall(self):
        self._shim.call("read", "read", self._path)
        return super().readall()
