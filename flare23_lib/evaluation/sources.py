"""Where measured memory and processor time come from: a command's processes, and a GPU as a whole.

Memory is in MB of 2**20 bytes, as the challenge's scripts and `nvidia-smi` count it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import Any, Protocol

from flare23_lib.errors import EvaluationError

log = logging.getLogger(__name__)

MB = 2**20

INSTALL = "pip install -c constraints.txt -e '.[workflow]' brings it"


@dataclass(frozen=True)
class Load:
    """What a command holds and has used at one moment.

    Attributes:
        ram_mb: resident memory of all its processes; pages that they share count once for each.
        cpu_seconds: processor time of all its processes since it began.
    """

    ram_mb: float
    cpu_seconds: float


class Processes(Protocol):
    """A command's processes."""

    def load(self) -> Load:
        """Return what they hold and have used."""


class Gpu(Protocol):
    """A GPU."""

    name: str

    def used_mb(self) -> float:
        """Return the memory in use on the whole device, whoever uses it."""


def load_psutil() -> Any:
    """Return the module psutil; EvaluationError if it is not installed."""
    try:
        import psutil
    except ImportError as error:
        raise EvaluationError(f"measuring needs psutil; {INSTALL}") from error
    return psutil


class ProcessTree:
    """A process and all its descendants, by psutil.

    What a process used is, once its parent has waited for it, in the parent's count of its children.
    """

    def __init__(self, pid: int) -> None:
        self._psutil = load_psutil()
        self._known: dict[int, Any] = {}
        self._cpu_seconds = 0.0
        self._next_scan = 0.0
        with contextlib.suppress(self._psutil.Error):
            self._known[pid] = self._psutil.Process(pid)

    def load(self) -> Load:
        """Return what the processes hold and have used; processes that end meanwhile are passed over."""
        resident, seconds = 0, 0.0
        self._scan()
        for process in self._known.values():
            with contextlib.suppress(self._psutil.Error), process.oneshot():
                resident += process.memory_info().rss
                seconds += sum(process.cpu_times()[:4])
        self._cpu_seconds = max(self._cpu_seconds, seconds)
        return Load(resident / MB, self._cpu_seconds)

    def _scan(self) -> None:
        """Look for new descendants; on a machine so full that this takes long, not at every call."""
        self._known = {pid: process for pid, process in self._known.items() if process.is_running()}
        started = time.monotonic()
        if started < self._next_scan:
            return
        others = {process.pid: process for process in self._psutil.process_iter(["ppid"])}
        found = True
        while found:
            found = [pid for pid, other in others.items() if other.info["ppid"] in self._known]
            self._known |= {pid: others.pop(pid) for pid in found}
        now = time.monotonic()
        self._next_scan = now + 10 * (now - started)

    def terminate(self) -> None:
        """End all processes, those first that were begun last."""
        self._next_scan = 0.0
        self._scan()
        for process in reversed(self._known.values()):
            with contextlib.suppress(self._psutil.Error):
                process.terminate()


class NvmlGpu:
    """A GPU by NVIDIA's management library: its memory as a whole, as the challenge measures it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        name = nvml.nvmlDeviceGetName(handle)
        self.name = name.decode() if isinstance(name, bytes) else name

    def used_mb(self) -> float:
        """Return total minus free memory, which is what the challenge's script takes."""
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return (memory.total - memory.free) / MB


def find_gpu(index: int | None = None, position: int = 0) -> NvmlGpu | None:
    """Return a GPU, or None if there is none and none was asked for.

    Args:
        index: its number as `nvidia-smi` counts; None for one that CUDA sees.
        position: which of those that CUDA sees, from 0: of those that CUDA_VISIBLE_DEVICES names, else of all.

    Raises:
        EvaluationError: a number was given and there is no such GPU.
    """
    try:
        import pynvml
    except ImportError as error:
        raise EvaluationError(f"measuring needs nvidia-ml-py; {INSTALL}") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _no_gpu(index, error)
    visible = str(index)
    if index is None:
        named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(position + 1)))).split(",")
        visible = named[position].strip() if position < len(named) else ""
    try:
        if visible.isdigit():
            return NvmlGpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(visible)))
        if visible.startswith(("GPU-", "MIG-")):
            return NvmlGpu(pynvml, pynvml.nvmlDeviceGetHandleByUUID(visible))
    except pynvml.NVMLError as error:
        return _no_gpu(index, error)
    return _no_gpu(index, f"CUDA_VISIBLE_DEVICES is {visible!r}")


def _no_gpu(index: int | None, reason: object) -> None:
    if index is not None:
        raise EvaluationError(f"--gpu {index}: there is no such GPU here ({reason}); leave the option out")
    log.debug("no GPU: %s", reason)
