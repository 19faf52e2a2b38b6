"""Signals that ask a training to stop: it finishes the iteration, saves, and ends."""

from __future__ import annotations

import signal
from types import FrameType

from flare23_lib.errors import FlareError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""A scheduler's end, a person's, and the warnings that a scheduler can be asked to send before its time limit."""


class StoppedError(FlareError):
    """A signal stopped a training; its state is saved."""

    def __init__(self, number: int, place: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}{place}; the state is saved, and the next start goes on from there")
        self.exit_code = 128 + number


class Signals:
    """While it is entered, signals are noted instead of ending the process; a second SIGINT ends it.

    Args:
        second_ends: whether a second SIGINT does. Not in one of several processes, which a terminal's Ctrl-C reaches
            both by itself and through the process that started them.

    Attributes:
        received: number of the signal that came, or None.
    """

    def __init__(self, second_ends: bool = True) -> None:
        self.received: int | None = None
        self._second_ends = second_ends
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._second_ends and number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
