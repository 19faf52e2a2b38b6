"""Locks on files, which end with their process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from flare23_lib.errors import LockError

LOCK_INTERVAL = 0.05
"""Seconds between two attempts at a lock that another process holds."""


@contextlib.contextmanager
def lock(path: str | Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for another holder to finish.

    The file is made if missing and left where it is. `waiting` is called once, without arguments, if another process
    holds the lock.
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
        LockError: the file system has no locks.
    """
    import filelock  # only here: most commands need no lock, and it takes 30 ms

    with contextlib.ExitStack() as stack:
        handle = stack.enter_context(path.open("a"))
        try:
            is_free = filelock.lock_descriptor(handle.fileno(), blocking=False)
        except OSError as error:
            raise LockError(
                f"{path}: its file system has no file locks (flock: {error.strerror}); put `results` on another "
                "one, or have it mounted with flock"
            ) from error
        if not is_free:
            return None
        stack.pop_all()
        return handle
