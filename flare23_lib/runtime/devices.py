"""Which device networks run on: its name in the configuration and on the command line, and PyTorch's device.

The GPUs of one machine are divided among its jobs.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from flare23_lib.errors import ConfigError, GpuError
from flare23_lib.io.locks import try_lock

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

NAMES = "auto, cpu, cuda, cuda:N or mps"
PATTERN = r"^(auto|cpu|cuda(:\d+)?|mps)$"
SEVERAL = ("auto", "cuda", "cpu")
"""The names that stand for as many GPUs (on a CPU: processes) as a training asks for."""


VISIBLE = "CUDA_VISIBLE_DEVICES"

PATIENCE = 60.0
"""Seconds that a job waits for others to end, before it shares their GPUs."""

_held: list[IO[str]] = []


def check_name(device: str) -> str:
    """Return the name of a device; ConfigError if it is not one of `NAMES`."""
    if not re.fullmatch(PATTERN, device):
        raise ConfigError(f"device: {device!r} is not {NAMES}")
    return device


def choose(device: str, claimed: int = 0) -> torch.device:
    """Return a device by its name, and log what it is.

    Args:
        device: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1" (the GPU of that number
            among the visible ones, from 0) or "mps" (Apple's GPU).
        claimed: how many GPUs the process claims for itself first (`claim`), if it may use any. One that is
            named by its number is taken without a claim, so that it stays the one that was meant.

    Raises:
        ConfigError: there is no such device, or it is a single one and several are claimed.
        GpuError: a job of SLURM has a GPU that does not work; another attempt may be on another node.
    """
    import torch

    check_name(device)
    if claimed > 1 and device not in SEVERAL:
        raise ConfigError(f"device: {device} is one GPU, and {claimed} are to share the work; use cuda")
    if claimed and device in ("auto", "cuda"):
        claim(claimed)
    if device == "mps":
        _check_mps()
        log.info("runs on Apple's GPU")
        return torch.device("mps")
    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device != "cpu" and not count and (granted := _granted_by_slurm()):
        raise GpuError(f"device: SLURM gave this job GPU {granted}, and PyTorch finds none; is the node broken?")
    if device == "cpu" or (device == "auto" and not count):
        log.info("runs on CPU with %d threads", torch.get_num_threads())
        return torch.device("cpu")
    if not count:
        raise ConfigError(f"device: {device} was requested, and PyTorch finds no GPU; use cpu or auto")
    if claimed > count:
        raise ConfigError(f"device: {claimed} GPUs are to share the work, and PyTorch finds {count}")
    chosen = torch.device("cuda" if device == "auto" else device)
    if (chosen.index or 0) >= count:
        raise ConfigError(f"device: {device} was requested, and the last GPU that PyTorch finds is cuda:{count - 1}")
    log.info("runs on %s", torch.cuda.get_device_name(chosen))
    return chosen


def _granted_by_slurm() -> str:
    """Return the GPUs that a job of SLURM was given, by SLURM's variables; empty for none, or for a CPU build of
    PyTorch, which finds none anywhere."""
    import torch

    if not (torch.version.cuda or torch.version.hip):
        return ""
    return os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS", "")


def _check_mps() -> None:
    """Raise ConfigError if PyTorch has no Metal here, or computes with it what the CPU does not.

    macOS 26.2 gives wrong 3-D convolutions without an error (PyTorch's issue 197114), which no log of a
    segmentation would show.
    """
    import torch
    import torch.nn.functional as F

    if not torch.backends.mps.is_available():
        raise ConfigError("device: mps was requested, and PyTorch has no Metal here; use cpu or auto")
    random = torch.Generator().manual_seed(0)
    for channels in (1, 16, 32):
        image = torch.randn(1, channels, 8, 8, 8, generator=random)
        weight = torch.randn(32, channels, 3, 3, 3, generator=random)
        expected, found = (F.conv3d(image.to(place), weight.to(place), padding=1).cpu() for place in ("cpu", "mps"))
        if not (found - expected).abs().max() < 1e-2 * expected.abs().max():
            raise ConfigError("device: mps computes 3-D convolutions wrongly here; update macOS, or use cpu")


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the layout in which a device computes 3-D convolutions fastest.

    That is with channels last, but for Metal, whose convolutions and norms have failed for such tensors.
    """
    import torch

    return torch.contiguous_format if device.type == "mps" else torch.channels_last_3d


def claim(count: int = 1) -> None:
    """Leave this process and its children only GPUs that no other job has claimed, by `CUDA_VISIBLE_DEVICES`.

    A GPU is claimed by a lock on a file in the folder of temporary files, one for each user and GPU, until the
    process ends. Nothing is changed where no more GPUs are visible than are wanted, as in a job of SLURM, nor where
    too few become free within `PATIENCE`. To be called before CUDA is in use.
    """
    visible = visible_gpus()
    if len(visible) <= count:
        return
    until = time.monotonic() + PATIENCE
    while (claimed := _lock_some(visible, count)) is None:
        if time.monotonic() > until:
            log.warning("GPU: other jobs hold too many of the %d; the first ones are shared", len(visible))
            return
        time.sleep(1)
    _held.extend(claimed.values())
    os.environ[VISIBLE] = ",".join(claimed)
    log.info("GPU: %s", ", ".join(claimed))


def _lock_some(names: Sequence[str], count: int) -> dict[str, IO[str]] | None:
    """Lock as many GPUs as are wanted; None, and none is locked, if too few are free."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir())
    locked: dict[str, IO[str]] = {}
    for name in names:
        place = folder / f"flare23-{user}-gpu-{name.replace('/', '_')}.lock"
        if len(locked) < count and (handle := try_lock(place)) is not None:
            locked[name] = handle
    if len(locked) == count:
        return locked
    for handle in locked.values():
        handle.close()
    return None


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA would see, as `CUDA_VISIBLE_DEVICES` may name them; none where that is not known."""
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [uuid.decode() if isinstance(uuid, bytes) else uuid for uuid in map(pynvml.nvmlDeviceGetUUID, handles)]
    except Exception as error:  # no library, no driver, or a GPU that fell off: PyTorch reports what it finds
        log.debug("GPUs are not counted: %s", error)
        return []
