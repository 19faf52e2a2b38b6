"""What one command takes: wall time, GPU memory, RAM and processor time, along time.

Two schedules run side by side. One is ours: a sample every 50 ms on absolute times, so that delays do not add up, and
areas by the trapezoid rule over the true times. The other is the challenge's: a poll, 0.1 s of sleep, the next poll,
and areas as the sum of the polls times 0.1 s. As a poll itself takes time, that sum counts less than the area.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import IO, Protocol

from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.sources import Gpu, Processes, ProcessTree, load_psutil

INTERVAL = 0.05
"""Seconds between samples."""

POLL_SLEEP = 0.1
"""Seconds that the challenge's script sleeps between polls, and what it multiplies their sum with."""


class Clock(Protocol):
    """The time, and a command that began and ends some time."""

    @property
    def started(self) -> float:
        """When the command began."""

    def now(self) -> float:
        """Return the time in seconds."""

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether the command has ended; if it ends meanwhile, return at once."""

    @property
    def ended(self) -> float:
        """When the command ended."""


@dataclass(frozen=True)
class Sample:
    """What was in use at one moment.

    Attributes:
        seconds: since the command began.
        ram_mb: of the command's processes, in MB of 2**20 bytes.
        cpu_seconds: processor time used so far.
        gpu_mb: on the whole GPU, in MB of 2**20 bytes; None without one.
    """

    seconds: float
    ram_mb: float
    cpu_seconds: float
    gpu_mb: float | None


@dataclass(frozen=True)
class Curve:
    """What a command took, along time.

    Attributes:
        seconds: wall time.
        samples: all samples, the last at the command's end.
        polls: those that the challenge's script would have taken.
    """

    seconds: float
    samples: tuple[Sample, ...]
    polls: tuple[Sample, ...]

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return (seconds, value) of "gpu_mb" or "ram_mb"; empty if it was not measured."""
        pairs = [(sample.seconds, getattr(sample, name)) for sample in self.samples]
        return [] if any(value is None for _, value in pairs) else pairs

    def peak(self, name: str) -> float | None:
        """Return the largest value; None if it was not measured."""
        return max((value for _, value in self.series(name)), default=None)

    def area(self, name: str) -> float | None:
        """Return the area under the curve (value times seconds) by the trapezoid rule; None if not measured."""
        series = self.series(name)
        if not series:
            return None
        return sum((b - a) * (first + second) / 2 for (a, first), (b, second) in pairwise(series))

    def official_area(self, name: str) -> float | None:
        """Return the challenge's figure for the area: the sum of the polls times 0.1 s; None if not measured."""
        if not self.series(name):  # a command may end before the first poll
            return None
        return sum(getattr(poll, name) for poll in self.polls) * POLL_SLEEP

    def utilization(self, cores: int) -> list[float]:
        """Return how much of all cores was used between polls, in percent; 0 at the first, as in the challenge."""
        used = [0.0]
        for before, after in pairwise(self.polls):
            seconds = after.seconds - before.seconds
            share = 100 * (after.cpu_seconds - before.cpu_seconds) / (seconds * cores) if seconds > 0 else 0.0
            used.append(min(share, 100.0))
        return used


def record(clock: Clock, processes: Processes, gpu: Gpu | None) -> Curve:
    """Record a command from its beginning until it ends.

    Args:
        clock: the time, and when the command ends.
        processes: where RAM and processor time are read.
        gpu: where GPU memory is read; None for none.
    """
    start = clock.started
    samples: list[Sample] = []
    polls: list[Sample] = []
    next_poll = start
    ended = False
    while not ended:
        now = clock.now()
        samples.append(_sample(now - start, processes, gpu))
        if now >= next_poll:
            polls.append(samples[-1])
            next_poll = clock.now() + POLL_SLEEP
        next_sample = start + INTERVAL * (int((now - start) / INTERVAL + 1e-9) + 1)
        ended = clock.wait(max(0.0, min(next_sample, next_poll) - clock.now()))
    seconds = clock.ended - start
    samples = [sample for sample in samples if sample.seconds < seconds]
    polls = [poll for poll in polls if poll.seconds < seconds]
    samples.append(_sample(seconds, processes, gpu))
    return Curve(seconds, tuple(samples), tuple(polls))


def _sample(seconds: float, processes: Processes, gpu: Gpu | None) -> Sample:
    load = processes.load()
    return Sample(seconds, load.ram_mb, load.cpu_seconds, None if gpu is None else gpu.used_mb())


class _RunningCommand:
    """A command that runs, as a clock: a thread of its own waits for it, so that its end is known to the moment."""

    def __init__(self, process: subprocess.Popen, started: float) -> None:
        self.started = started
        self.ended = 0.0
        self._process = process
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        self._process.wait()
        self.ended = time.monotonic()
        self._over.set()

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> bool:
        return self._over.wait(seconds)


def measure_command(command: Sequence[str], gpu: Gpu | None, output: IO | None = None) -> tuple[Curve, int]:
    """Run a command and measure it with all its processes; if the measuring is stopped, they are ended.

    Args:
        command: program and arguments.
        gpu: whose memory to measure; None for none.
        output: where its standard output and error go; None for where ours go.

    Returns:
        What it took, and its exit code (negative for a signal's number).

    Raises:
        EvaluationError: there is no such program, or psutil is not installed.
    """
    load_psutil()  # what is missing is said before anything runs
    used_before = _children_seconds()
    started = time.monotonic()
    try:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    except OSError as error:
        raise EvaluationError(f"{command[0]}: cannot be run ({error.strerror})") from error
    tree = ProcessTree(process.pid)
    with _stoppable():
        try:
            curve = record(_RunningCommand(process, started), tree, gpu)
        except BaseException:
            tree.terminate()
            raise
    # what was used after the last sample is known once the command has ended
    last = curve.samples[-1]
    used = max(last.cpu_seconds, _children_seconds() - used_before)
    samples = (*curve.samples[:-1], replace(last, cpu_seconds=used))
    return replace(curve, samples=samples), process.returncode


def _children_seconds() -> float:
    """Return the processor time of all processes that this one has waited for, and of those that they waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let a request to end (SIGTERM) raise KeyboardInterrupt, so that what runs can be ended too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
