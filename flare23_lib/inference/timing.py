"""How long the phases of a prediction take."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from flare23_lib import IMPORTED

PHASES = ("start_up", "weights", "read", "resample", "windows", "labels", "write")
"""start_up: from the start of the process until its modules are imported; weights: loading the model and choosing its
precision; both of the first case only. read and write run in threads of their own, in parallel to other phases."""


def seconds_since_start() -> float:
    """Return how long this process has run, to a hundredth of a second.

    The kernel notes in `/proc/self/stat`, field 22, when a process started, in timer ticks since the machine did; its
    own timer of the same origin is CLOCK_BOOTTIME (man 5 proc). So the interpreter's own start is counted. Where
    there is no `/proc` (macOS, Windows), time counts from the import of the library, the interpreter's first work.
    """
    try:
        text = Path("/proc/self/stat").read_text(encoding="utf-8")
    except OSError:
        return time.perf_counter() - IMPORTED
    fields = text.rpartition(")")[2].split()  # the second field, the program's name in brackets, may hold spaces
    started = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class PhaseTimer:
    """Seconds per phase; waits for the device at the end of each, as its work is asynchronous."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._last = time.perf_counter()

    def start(self) -> None:
        """Leave out what happened since the last phase."""
        self._last = time.perf_counter()

    def phase(self, name: str) -> None:
        """End a phase; a phase may come several times."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
