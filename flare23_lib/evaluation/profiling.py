"""Profiles of commands: wall time, GPU memory, RAM and CPU time, polled while the command runs.

The schedule is that of the challenge's script: a poll, 0.1 s of sleep, the next poll. Its areas are
sums of the polls times 0.1 s. As a poll takes time too, they are smaller than the areas under the
curves, which are integrals over the true times (trapezoid rule) up to the command's end.

Memory is in MB of 2**20 bytes, as in the challenge's script and in `nvidia-smi`. RAM and CPU time
are those of the command and its descendants, GPU memory that of the whole device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, NoReturn

import numpy as np
import psutil
import pynvml

from flare23_lib.errors import EvaluationError

log = logging.getLogger(__name__)

POLL_SLEEP = 0.1
"""Seconds of sleep between polls, with which the challenge's script multiplies their sum."""

MB = 2**20


@dataclass(frozen=True)
class Profile:
    """Arrays with a value per poll and a last one at the command's end.

    Attributes:
        seconds: since the command began; the last is the wall time.
        ram_mb: resident memory of all its processes; pages that they share count once for each.
        cpu_seconds: CPU time used so far.
        gpu_mb: in use on the whole GPU; NaN without one, and where it could not be read.
    """

    seconds: np.ndarray
    ram_mb: np.ndarray
    cpu_seconds: np.ndarray
    gpu_mb: np.ndarray

    def area(self, values: np.ndarray) -> float:
        """Return the area under a curve (value times seconds)."""
        return float(np.trapezoid(values, self.seconds))

    def official_area(self, values: np.ndarray) -> float:
        """Return the challenge's figure for the area."""
        return float(values[:-1].sum()) * POLL_SLEEP

    def utilization(self, cores: int) -> np.ndarray:
        """Return how much of all cores was used before each poll, in percent; 0 at the first, as in the challenge."""
        used, seconds = np.diff(self.cpu_seconds[:-1]), np.diff(self.seconds[:-1])
        return np.concatenate([[0.0], np.minimum(100 * used / (seconds * cores), 100.0)])


class ProcessTree:
    """A process and all its descendants, in the order in which they began."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._known = {root: None}
        self._cpu_seconds = 0.0
        self._next_scan = 0.0

    def load(self) -> tuple[float, float]:
        """Return resident memory in MB and CPU seconds; processes that end meanwhile are skipped."""
        resident, seconds = 0, 0.0
        self._scan()
        for process in self._known:
            with contextlib.suppress(psutil.Error), process.oneshot():
                resident += process.memory_info().rss
                seconds += sum(process.cpu_times()[:4])  # with the children that it has waited for
        self._cpu_seconds = max(self._cpu_seconds, seconds)
        return resident / MB, self._cpu_seconds

    def _scan(self) -> None:
        """Look for new descendants; where that is slow, as with thousands of processes, not at every poll."""
        started = time.monotonic()
        if started < self._next_scan:
            return
        with contextlib.suppress(psutil.Error):
            self._known |= dict.fromkeys(self._root.children(recursive=True))
        self._known = {process: None for process in self._known if process.is_running()}
        now = time.monotonic()
        self._next_scan = now + 10 * (now - started)

    def terminate(self) -> None:
        """End all processes, those that started others first: a shell would run its next command."""
        self._next_scan = 0.0
        self._scan()
        for process in self._known:
            with contextlib.suppress(psutil.Error):
                process.terminate()


class Gpu:
    """A GPU by NVIDIA's management library; NVMLError if that cannot give its name and memory."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.name: str = pynvml.nvmlDeviceGetName(handle)
        self.used_mb()

    def used_mb(self) -> float:
        """Return total minus free memory, as the challenge's script; NVMLError if it cannot be read."""
        memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
        return float(memory.total - memory.free) / MB


def find_gpu(index: int | None = None, position: int = 0) -> Gpu | None:
    """Return the GPU of a number of `nvidia-smi`, or else that of a position in CUDA_VISIBLE_DEVICES, if any.

    Without the variable a position is a number. A GPU whose memory cannot be read is none.

    Raises:
        EvaluationError: a number was given and there is no such GPU, or its memory cannot be read.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = list(map(str, range(position + 1))) if listed is None else listed.split(",")
    visible = str(index) if index is not None else names[position].strip() if position < len(names) else ""
    reason: object = f"CUDA_VISIBLE_DEVICES is {visible!r}"
    try:
        pynvml.nvmlInit()
        if visible.isdigit():
            return Gpu(pynvml.nvmlDeviceGetHandleByIndex(int(visible)))
        if visible.startswith(("GPU-", "MIG-")):
            return Gpu(pynvml.nvmlDeviceGetHandleByUUID(visible))
    except pynvml.NVMLError as error:
        reason = error
    if index is not None:
        raise EvaluationError(
            f"--gpu {index}: there is no such GPU here, or its memory cannot be read ({reason}); leave the option out"
        )
    log.debug("no GPU: %s", reason)
    return None


def poll(
    wait: Callable[[float], object],
    processes: ProcessTree,
    gpu: Gpu | None,
    started: float,
    now: Callable[[], float] = time.monotonic,
) -> Profile:
    """Poll a command, which began at `started` by the clock `now`, until it ends.

    `wait` returns at its end, or raises psutil.TimeoutExpired after the given number of seconds.
    """
    samples = []

    def sample(moment: float) -> None:
        load, gpu_mb = processes.load(), np.nan
        if gpu is not None:
            with contextlib.suppress(pynvml.NVMLError):
                gpu_mb = gpu.used_mb()
        samples.append((moment - started, *load, gpu_mb))

    ended = None
    while ended is None:
        sample(now())
        with contextlib.suppress(psutil.TimeoutExpired):
            wait(POLL_SLEEP)
            ended = now()
    sample(ended)
    return Profile(*np.array(samples).T)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


def profile_command(command: Sequence[str], gpu: Gpu | None, output: IO[bytes] | None = None) -> tuple[Profile, int]:
    """Run a command and return its profile and its exit code, which is negative for a signal's number.

    All its processes are ended if this one is interrupted; SIGTERM raises KeyboardInterrupt with its number. Its
    messages go to `output`, or where those of this process go.

    Raises:
        EvaluationError: there is no such program.
    """
    used_before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, _interrupt)
            stack.callback(signal.signal, signal.SIGTERM, before)
        started = time.monotonic()
        try:
            process = psutil.Popen(command, stdout=output, stderr=output)
        except OSError as error:
            raise EvaluationError(f"{command[0]}: cannot be run ({error.strerror})") from error
        tree = ProcessTree(process)
        try:
            profile = poll(process.wait, tree, gpu, started)
        except BaseException:
            tree.terminate()
            raise
    # what was used after the last poll is known once the command has ended
    used = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - used_before
    profile.cpu_seconds[-1] = max(profile.cpu_seconds[-1], used)
    return profile, process.returncode
