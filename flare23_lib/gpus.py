"""GPUs that the jobs of one machine divide among themselves."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"

_held: list[IO[str]] = []


def claim(count: int = 1) -> None:
    """Leave this process and its children only GPUs that no other job has claimed, by `CUDA_VISIBLE_DEVICES`.

    A GPU is claimed by a lock on a file in the folder of temporary files, one for each user and GPU, until the
    process ends. Nothing is changed where no more GPUs are visible than are wanted, as in a job of SLURM, nor where
    too few are free. To be called before CUDA is in use.

    Args:
        count: how many GPUs are wanted.
    """
    visible = visible_gpus()
    if len(visible) <= count:
        return
    claimed: dict[str, IO[str]] = {}
    for name in visible:
        if len(claimed) < count and (handle := _lock(name)) is not None:
            claimed[name] = handle
    if len(claimed) < count:
        for handle in claimed.values():
            handle.close()
        log.info("GPU: other jobs hold %d of %d; the first is shared", len(visible) - len(claimed), len(visible))
        return
    _held.extend(claimed.values())
    os.environ[VISIBLE] = ",".join(claimed)
    log.info("GPU: %s", ", ".join(claimed))


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA would see, as `CUDA_VISIBLE_DEVICES` may name them; none where that is not known."""
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [uuid.decode() if isinstance(uuid, bytes) else uuid for uuid in map(pynvml.nvmlDeviceGetUUID, handles)]
    except Exception as error:  # no library, no driver, or a GPU that fell off: PyTorch will say what it sees
        log.debug("GPUs are not counted: %s", error)
        return []


def _lock(name: str) -> IO[str] | None:
    """Lock a GPU; None if another job has it."""
    handle = (Path(tempfile.gettempdir()) / f"flare23-{os.getuid()}-gpu-{name.replace('/', '_')}.lock").open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle
