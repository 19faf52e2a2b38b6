"""GPUs divided among the jobs of one machine."""

from __future__ import annotations

import getpass
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from flare23_lib.io.locks import try_lock

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"

PATIENCE = 60.0
"""Seconds that a job waits for others to end, before it shares their GPUs."""

_held: list[IO[str]] = []


def claim(count: int = 1) -> None:
    """Leave this process and its children only GPUs that no other job has claimed, by `CUDA_VISIBLE_DEVICES`.

    A GPU is claimed by a lock on a file in the folder of temporary files, one for each user and GPU, until the
    process ends. Nothing is changed where no more GPUs are visible than are wanted, as in a job of SLURM, nor where
    too few become free within `PATIENCE`. To be called before CUDA is in use.

    Args:
        count: how many GPUs are wanted.
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
