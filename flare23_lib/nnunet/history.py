"""History of a training, a row per epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib.io.tables import read_csv, write_csv


@dataclass
class Epoch:
    """An epoch that is not finished, with the losses of its training iterations so far.

    `seconds` were spent on it so far, in all runs that worked on it; of these `waiting` were spent waiting for
    batches.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    waiting: float = 0.0


def _column(name: str) -> str:
    return f"pseudo_dice_{name}"


def _mean(values: Sequence[float], decimals: int) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return round(float(np.mean(finite)), decimals) if finite else None


def row(
    epoch: int,
    learning_rate: float,
    progress: Epoch,
    validation_losses: Sequence[float],
    dice: Sequence[float],
) -> dict[str, Any]:
    """Return one epoch's row; a class without a voxel in the validation patches has None.

    Epochs are counted from 1. `dice` is per class, NaN for one that was absent. Means are of finite values, None
    where there are none.

    Classes have positions in it, not names, so that a training resumes after a label is renamed.
    """
    return {
        "epoch": epoch,
        "learning_rate": float(f"{learning_rate:.6g}"),
        "train_loss": _mean(progress.losses, 5),
        "validation_loss": _mean(validation_losses, 5),
        "pseudo_dice": _mean(dice, 4),
        "classes": [None if np.isnan(value) else round(value, 4) for value in dice],
        "seconds": round(progress.seconds, 2),
        "waiting_seconds": round(progress.waiting, 2),
    }


def write(path: Path, classes: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write training.csv: a row per finished epoch, made by `row`."""
    names = [_column(name) for name in classes]
    columns = ["epoch", "learning_rate", "train_loss", "validation_loss", "pseudo_dice", *names,
               "seconds", "waiting_seconds"]  # fmt: skip
    flat = [row | dict(zip(names, row["classes"], strict=True)) for row in rows]
    write_csv(path, columns, [{name: row[name] for name in columns} for row in flat])


def write_named(path: Path, source: Path, names: Mapping[str, str]) -> None:
    """Copy a training.csv, with new names in the place of those of its classes."""
    new = {_column(old): _column(name) for old, name in names.items()}
    rows = [{new.get(key, key): cell for key, cell in epoch.items()} for epoch in read_csv(source)]
    write_csv(path, list(rows[0]), rows)
