"""Cores, memory and CPU of this machine, and what its SLURM keeps."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from flare23_lib import IMPORTED
from flare23_lib.errors import ConfigError

CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the number of cores that this process, and so a command that it starts, may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows


def available_memory() -> int:
    """Return the bytes of memory that processes can still get without swapping."""
    return psutil.virtual_memory().available


def usable_memory() -> int:
    """Return nine tenths of the bytes that are free here or held by this process, or of what the SLURM job or control
    group has if that is less."""
    available = min(available_memory() + own_memory(), memory_limit() or math.inf)
    of_cores = int(os.environ.get("SLURM_MEM_PER_CPU", 0)) * int(os.environ.get("SLURM_CPUS_ON_NODE", 0))
    if granted := int(os.environ.get("SLURM_MEM_PER_NODE", 0)) or of_cores:
        available = min(available, granted * 1024**2)
    return int(0.9 * available)


def own_memory() -> int:
    """Return the bytes of memory that this process holds; on Linux without mapped files, which others may use."""
    held = psutil.Process().memory_info()
    return held.rss - getattr(held, "shared", 0)


def memory_limit() -> int | None:
    """Return the bytes of memory that this process's control group may take, as of a SLURM job or a container; None
    if none limits it, or that is not known.

    Limits are `memory.max` (cgroup v2) or `memory.limit_in_bytes` (v1) of the group and of those that it is in; a
    container sees its own group as the root (man 7 cgroups, cgroup_namespaces).
    """
    limits = []
    try:
        lines = CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (CGROUP_ROOT / "memory", "memory.limit_in_bytes") if controllers else (CGROUP_ROOT, "memory.max")
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or a group that is not seen here
                limits.append(int((folder / name).read_text(encoding="utf-8")))
            if folder == root:
                break
    return min(limits, default=None)


def has_slurm_accounts() -> bool:
    """Return whether SLURM keeps accounts of jobs, which `sacct` shows; ConfigError without `scontrol`."""
    try:
        shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError("there is no scontrol here") from error
    return "accounting_storage/slurmdbd" in shown.stdout


def package_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor_name() -> str:
    """Return the CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
