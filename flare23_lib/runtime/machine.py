"""Cores, memory and CPU of this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from flare23_lib.errors import ConfigError


def available_cores() -> int:
    """Return the number of cores that this process, and so a command that it starts, may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows


def available_memory() -> int:
    """Return the bytes of memory that processes can still get without swapping.

    Raises:
        ConfigError: neither the kernel (`/proc/meminfo`, on Linux) nor psutil, if it is installed, reports it.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        try:
            import psutil
        except ImportError as error:
            raise ConfigError("the free memory is not known here; give a limit, or install psutil") from error
        return psutil.virtual_memory().available
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


def processor_name() -> str:
    """Return the CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
