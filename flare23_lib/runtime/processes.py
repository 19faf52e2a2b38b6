"""Work on many items in several processes: the one process pool of the library."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from typing import TypeVar

from flare23_lib.errors import KilledError
from flare23_lib.io import atomic
from flare23_lib.runtime.progress import progress

PR_SET_PDEATHSIG = 1
"""Linux's option of prctl (see its manual page) to be sent a signal when the parent ends."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    processes: int = 1,
    name: Callable[[Item], str] = str,
    unit: str = "case",
    sizes: Sequence[int] | None = None,
) -> Iterator[Result]:
    """Yield the result of each item, in order, and show the progress.

    One process, or one item, is this process. Others are spawned: a forked one would inherit the locks of threads
    that it does not have. They end with this process, and when the iteration is left, as by Ctrl-C.

    Args:
        function: what is done with an item; processes import it, or what a `functools.partial` holds.
        items: what is worked on, one at a time in each process.
        processes: the number of processes.
        name: returns what an item is called in an error.
        unit: see `progress`.
        sizes: see `progress`.

    Raises:
        KilledError: a process was killed, or there is not enough memory for an item.
        Exception: what the function raises.
    """
    processes = min(processes, len(items))
    results = _here(function, items, name) if processes <= 1 else _in_pool(function, items, processes, name)
    with contextlib.closing(results):
        yield from progress(results, len(items), unit, sizes)


def _here(
    function: Callable[[Item], Result], items: Sequence[Item], name: Callable[[Item], str]
) -> Generator[Result]:
    for item in items:
        try:
            result = function(item)
        except MemoryError as error:
            raise KilledError(f"{name(item)}: there is not enough memory for it; stop other programs") from error
        yield result


def _in_pool(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, name: Callable[[Item], str]
) -> Generator[Result]:
    """Hand each process one item at a time, so that what is not finished is what is being worked on."""
    context = multiprocessing.get_context("spawn")
    reading, writing = context.Pipe(duplex=False)
    waiting = iter(items)
    ordered: deque[tuple[Future[Result], Item]] = deque()
    begun: dict[Future[Result], Item] = {}
    pool = ProcessPoolExecutor(processes, context, _start_worker, (reading,))
    with reading, pool, writing:  # the end of the pipe is closed first, which ends the processes
        try:
            while True:
                for item in islice(waiting, processes - len(begun)):
                    future = pool.submit(function, item)
                    begun[future] = item
                    ordered.append((future, item))
                if not ordered:
                    return
                for future in wait(begun, return_when=FIRST_COMPLETED).done:
                    if isinstance(error := future.exception(), BrokenProcessPool):
                        raise error
                    del begun[future]
                while ordered and ordered[0][0] not in begun:
                    future, item = ordered.popleft()
                    yield future.result()
        except BrokenProcessPool as error:
            unfinished = (item for future, item in begun.items() if not future.done() or future.exception())
            names = ", ".join(map(name, unfinished))
            raise KilledError(
                f"a process was killed, probably because memory ran out, during work on {names}; start again with "
                "fewer processes"
            ) from error
        except MemoryError as error:
            raise KilledError(
                f"{name(item)}: there is not enough memory for it; start again with fewer processes"
            ) from error


def _start_worker(parent: Connection) -> None:
    """Let a process end with its parent, which alone answers a terminal's Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Connection) -> None:
    """End this process as soon as the other end of the connection is closed."""
    with contextlib.suppress(EOFError, OSError):
        parent.recv_bytes()
    atomic.remove_unfinished()
    os._exit(1)


def end_with_parent() -> None:
    """Have this process killed when the one that started it ends, also by a kill; only Linux can do that."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before this
        os._exit(1)
