"""The weights that a training starts from (`pretrained` in the configuration)."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from flare23_lib.errors import BundleError, TrainingError
from flare23_lib.inference.bundle import file_sha256
from flare23_lib.io.atomic import about_path, write_text
from flare23_lib.io.tables import write_csv

if TYPE_CHECKING:
    from flare23_lib.nnunet.trainer import FlareTrainer

log = logging.getLogger(__name__)

TABLE = "initial_weights.csv"
"""Lists whether each parameter was loaded; in the folder of the training's record."""


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
    """Load weights into a new trainer, and list which were loaded, and why others were not.

    Args:
        source: file of weights, as `pretrained.read_weights` reads it.
        table: CSV of the parameters.
        trainer: of a training that has not begun.

    Raises:
        BundleError: the file cannot be read.
        TrainingError: none of its kernels fits.
    """
    from flare23_lib.nnunet.pretrained import COLUMNS, STATUSES, match, read_weights

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
