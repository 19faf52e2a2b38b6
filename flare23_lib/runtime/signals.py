"""Signals that ask a job to stop, and the log line that answers them at once.

Python calls the handler of a signal in the main thread, between two of its instructions. A backward pass is one
instruction, and took 35 s for a batch of STU-Net-S on two busy cores. So a thread of its own gives the answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from flare23_lib.errors import FlareError
from flare23_lib.io import atomic

log = logging.getLogger(__name__)

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""A scheduler's end, the user's Ctrl-C, and the warnings that a scheduler can be asked to send before its time limit
(which Windows lacks)."""


class StoppedError(FlareError):
    """A signal stopped a training; its state is saved."""

    def __init__(self, number: int, place: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}{place}; the state is saved, and the next start resumes from it")
        self.exit_code = 128 + number


@contextlib.contextmanager
def answered(answer: Callable[[int], None]) -> Iterator[None]:
    """Call a function, in a thread and at once, with the number of each signal that has a handler in Python.

    To be entered in the main thread.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def answer_all() -> None:
        while number := reading.recv(1):
            answer(number[0])

    thread = threading.Thread(target=answer_all, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writing.close()  # the thread ends when it has answered what came before
        thread.join()
        reading.close()


class Signals:
    """While it is entered, signals are noted instead of ending the process; a second SIGINT ends it.

    Args:
        alone: whether the process answers for itself: with a line in the log, and its end at a second SIGINT. Not one
            of several processes, which a terminal's Ctrl-C reaches both by itself and through the one that started
            them.

    Attributes:
        received: number of the signal that came, or None.
    """

    def __init__(self, alone: bool = True) -> None:
        self.received: int | None = None
        self._alone = alone
        self._answered: int | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Signals:
        with contextlib.ExitStack() as stack:
            for number in STOPPING:
                stack.callback(signal.signal, number, signal.signal(number, self._note))
            if self._alone:
                stack.enter_context(answered(self._answer))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._alone and number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def _answer(self, number: int) -> None:
        before, self._answered = self._answered, number
        if number not in STOPPING:
            return
        if number != before:
            then = "; Ctrl-C again stops without saving" if number == signal.SIGINT else ""
            name = signal.Signals(number).name
            log.info("%s: finishing the batch under way, then saving a checkpoint%s", name, then)
        elif number == signal.SIGINT:
            log.info("SIGINT again: stopping without saving")


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """While it is entered, in the main thread, signals raise StoppedError: for work that has no state to save."""

    def stop(number: int, _: FrameType | None) -> None:
        raise StoppedError(number)

    with contextlib.ExitStack() as stack:
        for number in STOPPING:
            stack.callback(signal.signal, number, signal.signal(number, stop))
        yield


@contextlib.contextmanager
def ended_at_once() -> Iterator[None]:
    """While it is entered, SIGINT and SIGTERM end the process at once, in mid-convolution too, with one line.

    For work that loses nothing by it: files half-written are removed, those in place are whole. A signal that was
    ignored, as a shell has it for a command in the background, stays so.
    """

    taken = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]

    def end(number: int) -> None:
        if number not in taken:
            return
        try:
            atomic.remove_unfinished()
            after_bar = "\n" if sys.stderr.isatty() else ""
            sys.stderr.write(f"{after_bar}flare23: {stopped_by(number)}\n")
            sys.stderr.flush()
        finally:
            os._exit(128 + number)

    with contextlib.ExitStack() as stack:
        for number in taken:
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: None))
        stack.enter_context(answered(end))
        yield


def stopped_by(number: int) -> str:
    """Return the message that names the signal that ended a command."""
    return f"stopped by {signal.Signals(number).name}"
