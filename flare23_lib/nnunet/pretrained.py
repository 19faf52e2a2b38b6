"""The weights that a training starts from (`pretrained` in the configuration): what a file holds, and which of it a
network can start from.

Three kinds of file are read: those of the STU-Net releases (nnU-Net 1, `.model`), nnU-Net 2's checkpoints, and the
safetensors of our bundles.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flare23_lib.choices import MODEL_FILE
from flare23_lib.errors import BundleError, TrainingError
from flare23_lib.inference.bundle import file_sha256
from flare23_lib.inference.checkpoint import checkpoint_weights, read_checkpoint, read_safetensors
from flare23_lib.io.atomic import about_path, read_json, write_text
from flare23_lib.io.tables import write_csv

if TYPE_CHECKING:
    from flare23_lib.nnunet.trainer import FlareTrainer

log = logging.getLogger(__name__)

TABLE = "initial_weights.csv"
"""Lists whether each parameter was loaded; in the folder of the training's record."""

LOADED, OTHER_SHAPE, NOT_IN_FILE, NOT_USED = "loaded", "shape differs", "not in file", "not used"
STATUSES = (LOADED, OTHER_SHAPE, NOT_IN_FILE, NOT_USED)
"""Status of a parameter; the last is one of the file that the network does not have."""

COLUMNS = ("parameter", "status", "shape", "shape_in_file")


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a file of weights onto the CPU, by name of parameter; nothing in it is run.

    Raises:
        BundleError: missing, broken, in need of more than plain values, or not the weights that the bundle around
            them describes; one line that names the file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return checkpoint_weights(read_checkpoint(path), path)
    weights, described = read_safetensors(path), path.with_name(MODEL_FILE)
    content = read_json(described) if described.exists() else {}
    bundled = content.get("weights") if isinstance(content, dict) else None
    if isinstance(bundled, dict) and bundled.get("file") == path.name and bundled.get("sha256") != file_sha256(path):
        raise BundleError(f"{path}: does not match {MODEL_FILE} (SHA-256 differs)")
    return weights


def match(
    network: torch.nn.Module, weights: Mapping[str, torch.Tensor]
) -> tuple[list[dict[str, str]], dict[str, torch.Tensor]]:
    """Compare weights with a network's parameters, by name and shape. The network may be on the meta device.

    Layers whose shape differs start fresh: of a network for other classes, the heads.

    Returns:
        A row per parameter of the network or the file, in the network's order, with `COLUMNS`; and the weights that
        the network can start from, by name of parameter.
    """
    expected = network.state_dict()
    rows, fitting = [], {}
    for name in [*expected, *(name for name in weights if name not in expected)]:
        here, there = expected.get(name), weights.get(name)
        if here is None or there is None:
            status = NOT_USED if here is None else NOT_IN_FILE
        elif here.shape != there.shape:
            status = OTHER_SHAPE
        else:
            status = LOADED
            fitting[name] = there.to(here.dtype)
        rows.append(dict(zip(COLUMNS, (name, status, _shape(here), _shape(there)), strict=True)))
    return rows, fitting


def _shape(tensor: torch.Tensor | None) -> str:
    return "" if tensor is None else "x".join(map(str, tensor.shape))


def digest_of(source: Path | None) -> str | None:
    """Return the SHA-256 of a file of initial weights; None without one. BundleError if it cannot be read."""
    if source is None:
        return None
    try:
        status = source.stat()
        return _digest(source, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise BundleError(f"{source}: cannot be read ({error.strerror})") from error


@functools.cache
def _digest(source: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file of this size, changed then. Cached, as large files are asked for repeatedly."""
    return file_sha256(source)


def load_initial_weights(source: Path, table: Path, trainer: FlareTrainer) -> None:
    """Load weights into a new trainer, and list in a CSV which were loaded, and why others were not.

    The file of weights is one that `read_weights` reads; the trainer's training has not begun.

    Raises:
        BundleError: the file cannot be read.
        TrainingError: none of its kernels fits.
    """
    rows, weights = match(trainer.bare_network, read_weights(source))
    if trainer.local_rank == 0:
        write_csv(table, COLUMNS, rows)
        counts = Counter(row["status"] for row in rows)
        listed = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
        log.info("starts from %s: parameters %s", source, listed)
    if not any(weight.dim() > 1 for weight in weights.values()):
        raise TrainingError(f"{source}: no kernel fits the network; {table} compares them")
    trainer.bare_network.load_state_dict(weights, strict=False)


def publish(folder: Path, record: Path) -> None:
    """Copy a training's table of initial weights to the folder of its record; one of another training is removed."""
    table = folder / TABLE
    if table.exists():
        with about_path(table):
            text = table.read_text(encoding="utf-8")
        write_text(record.with_name(TABLE), text)
    else:
        record.with_name(TABLE).unlink(missing_ok=True)
