"""The weights that a training starts from (`pretrained` in the configuration)."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flare23_lib.config.settings import TrainingSettings
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


def with_digest(settings: TrainingSettings, digest: str | None) -> TrainingSettings:
    """Return the settings with the digest of the initial weights' file, whose path shapes nothing."""
    return TrainingSettings.of(settings, pretrained=digest or None)


@dataclass(frozen=True)
class InitialWeights:
    """Loads weights into a new trainer, and lists which were loaded, and why others were not.

    Attributes:
        source: file of weights, as `pretrained.read_weights` reads it.
        table: CSV of the parameters.
    """

    source: Path
    table: Path

    def __call__(self, trainer: FlareTrainer) -> None:
        """Load the weights; BundleError if they cannot be read, TrainingError if none of them fits."""
        from flare23_lib.nnunet.pretrained import COLUMNS, match, read_weights

        found = match(trainer.bare_network, read_weights(self.source))
        counts = ", ".join(f"{count} {status}" for status, count in found.counts.items())
        if trainer.local_rank == 0:
            write_csv(self.table, COLUMNS, found.rows)
            log.info("starts from %s: parameters %s", self.source, counts)
        if not any(weight.dim() > 1 for weight in found.weights.values()):
            raise TrainingError(f"{self.source}: no kernel fits the network; {self.table} compares them")
        trainer.bare_network.load_state_dict(found.weights, strict=False)


def publish(folder: Path, record: Path) -> None:
    """Copy a training's table of initial weights to the folder of its record; one of another training is removed."""
    table = folder / TABLE
    if table.exists():
        with about_path(table):
            text = table.read_text(encoding="utf-8")
        write_text(record.with_name(TABLE), text)
    else:
        record.with_name(TABLE).unlink(missing_ok=True)
