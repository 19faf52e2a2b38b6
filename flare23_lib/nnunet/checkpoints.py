"""Checkpoints that a kill at any moment cannot damage, and the random state that goes into them."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flare23_lib.io.atomic import atomic_path, sync
from flare23_lib.networks.weight_files import save_checkpoint

log = logging.getLogger(__name__)

FINAL = "checkpoint_final.pth"
LATEST = "checkpoint_latest.pth"
PREVIOUS = "checkpoint_previous.pth"
READERS = ("PytorchStreamReader", "inline_container")
"""What PyTorch's errors name if the archive is damaged."""

BROKEN = ".broken"
"""Appended to the name of a checkpoint that cannot be read."""


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint: to a temporary file, synced, then renamed."""
    with atomic_path(path) as temporary:
        save_checkpoint(temporary, content)


def write_latest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the newest checkpoint and keep the one before it, which is complete; at any moment one of them is.

    Files are renamed only: some file systems of clusters have no hard links.
    """
    latest = folder / LATEST
    with atomic_path(latest) as temporary:
        save_checkpoint(temporary, content)
        sync(temporary)  # takes seconds for a large one, during which the newest stays in place
        if latest.exists():
            latest.replace(folder / PREVIOUS)


def remove_intermediate(folder: Path) -> None:
    """Remove what the final checkpoint makes unnecessary."""
    for name in (LATEST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob(f"*{BROKEN}"):
        path.unlink(missing_ok=True)


def newest(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return name and content (on the CPU) of the newest complete checkpoint, or None.

    A broken one is renamed, and the log reports it. Checkpoints are our own; they
    are read as pickles.

    Raises:
        OSError, MemoryError, RuntimeError: a complete one cannot be read now; it stays as it is.
    """
    for name in (FINAL, LATEST, PREVIOUS):
        path = folder / name
        try:
            return name, _read(path)
        except FileNotFoundError:
            continue
        except BrokenCheckpointError as error:
            aside = path.with_name(name + BROKEN)
            log.warning("%s is broken (%s), now %s; the one before it is used, if any", path, error, aside.name)
            with contextlib.suppress(FileNotFoundError):  # another process of the training was first
                path.replace(aside)
    return None


class BrokenCheckpointError(Exception):
    """A checkpoint's archive is damaged."""


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, every part of which carries a checksum; BrokenCheckpointError if the archive is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged directory names methods, places and characters that there are not
        outside = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if outside or isinstance(error, MemoryError):
            raise
        raise BrokenCheckpointError(str(error).partition("\n")[0] or type(error).__name__) from error
    if damaged is not None:
        raise BrokenCheckpointError(f"{damaged} fails its checksum")
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, ValueError) as error:
        of_the_file = isinstance(error, ValueError) or any(part in str(error) for part in READERS)
        if not of_the_file:  # such as too little memory
            raise
        raise BrokenCheckpointError(str(error).partition("\n")[0]) from error


def mark(folder: Path) -> list[int]:
    """Return what changes whenever a new checkpoint is written: size and time of the newest; empty without one."""
    for name in (FINAL, LATEST, PREVIOUS):
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            continue
        return [status.st_size, status.st_mtime_ns]
    return []


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of all random generators of this process."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the random generators to what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def seed(number: int) -> None:
    """Seed all random generators of this process."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
