"""Reading every file of the cohort once, and remembering what was seen.

What is remembered of a file holds as long as its size and modification time do; the next scan reads only what is
new. What was read is written down file by file, so a scan that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from flare23_lib import images
from flare23_lib.errors import ImageError
from flare23_lib.progress import progress
from flare23_lib.store import lock

log = logging.getLogger(__name__)

VERSION = 1
"""Raised when what is read from a file changes."""


@dataclass(frozen=True)
class Facts:
    """What one file holds.

    Attributes:
        identity: of its content (`images.file_identity`).
        error: why it cannot be used, one line, or empty; the other fields are then empty too.
        shape: (z, y, x).
        spacing: (z, y, x) in mm.
        affine: the 16 numbers of the affine, row by row.
        low: lowest voxel value.
        high: highest voxel value.
        finite: whether all voxels are.
        whole: whether all voxels are whole numbers.
        voxels: voxels per value other than 0; only for labels with whole values, at most 1,000 values.
    """

    identity: str = ""
    error: str = ""
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    affine: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    finite: bool = True
    whole: bool = True
    voxels: dict[int, int] | None = None

    @property
    def geometry(self) -> images.Geometry:
        """The geometry; only for a file without an error."""
        return images.Geometry(self.shape, np.array(self.affine).reshape(4, 4), self.spacing)

    def to_json(self) -> dict:
        """Return plain data for `from_json`."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "voxels"},
            "voxels": None if self.voxels is None else sorted(self.voxels.items()),
        }

    @classmethod
    def from_json(cls, content: dict) -> Facts:
        """Read what `to_json` gave."""
        voxels = content.pop("voxels")
        shape, spacing = content.pop("shape"), content.pop("spacing")
        return cls(
            **content,
            voxels=None if voxels is None else {int(value): int(count) for value, count in voxels},
            shape=tuple(shape) if shape else None,
            spacing=tuple(spacing) if spacing else None,
        )


def value_counts(array: np.ndarray) -> dict[int, int]:
    """Count the voxels of every value of an integer array.

    Label maps consist of long runs: unique values are looked for among the heads of the runs only.
    """
    flat = array.reshape(-1)
    if not flat.size:
        return {}
    heads = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(np.append(heads, flat.size))
    values, index = np.unique(flat[heads], return_inverse=True)
    counts = np.bincount(index, weights=lengths).astype(np.int64)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def read_facts(path: Path, is_label: bool) -> Facts:
    """Read one file whole; what is wrong with it is in the result's `error`."""
    try:
        identity = images.file_identity(path)
        volume = images.read_volume(path)
    except ImageError as error:
        return Facts(error=str(error))
    array = volume.array
    finite = bool(array.dtype.kind != "f" or np.isfinite(array).all())
    whole = bool(array.dtype.kind != "f" or (finite and np.array_equal(np.rint(array), array)))
    low, high = (float(np.nanmin(array)), float(np.nanmax(array))) if finite and array.size else (0.0, 0.0)
    voxels = None
    if is_label and whole:
        counts = value_counts(array if array.dtype.kind != "f" else array.astype(np.int64))
        voxels = {value: count for value, count in list(counts.items())[:1000] if value}
    return Facts(
        identity=identity,
        shape=volume.geometry.shape,
        spacing=volume.geometry.spacing,
        affine=tuple(float(number) for number in volume.geometry.affine.ravel()),
        low=low,
        high=high,
        finite=finite,
        whole=whole,
        voxels=voxels,
    )


def _read(task: tuple[Path, bool]) -> Facts:
    return read_facts(*task)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _remembered(memory: Path) -> dict[tuple, Facts]:
    facts = {}
    if memory.exists():
        for line in memory.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line that was being written when a scan was killed
                continue
            facts[(row["path"], row["label"], row["size"], row["mtime"])] = Facts.from_json(row["facts"])
    return facts


def scan(tasks: Sequence[tuple[Path, bool]], memory: Path, processes: int = 1) -> dict[Path, Facts]:
    """Read files that are new or changed and take the rest from memory.

    Args:
        tasks: (path, whether it is a label) of every file.
        memory: the file that remembers; made if missing.
        processes: how many files are read at once.
    """
    memory.parent.mkdir(parents=True, exist_ok=True)
    with lock(memory.with_name(memory.name + ".lock"), lambda: log.info("another scan is running; waiting for it")):
        known = _remembered(memory)
        keys = {path: (str(path), is_label, *_stamp(path)) for path, is_label in tasks}
        fresh = [(path, is_label) for path, is_label in tasks if keys[path] not in known]
        log.info("%d files, %d of them new or changed", len(tasks), len(fresh))
        with memory.open("a", encoding="utf-8") as handle:
            for (path, is_label), facts in zip(fresh, _run(fresh, processes), strict=True):
                known[keys[path]] = facts
                _, _, size, mtime = keys[path]
                row = {"path": str(path), "label": is_label, "size": size, "mtime": mtime, "facts": facts.to_json()}
                handle.write("\n" * (handle.tell() > 0) + json.dumps(row))
                handle.flush()
        return {path: known[key] for path, key in keys.items()}


def _run(tasks: Sequence[tuple[Path, bool]], processes: int) -> Iterable[Facts]:
    if processes <= 1 or len(tasks) < 4:
        yield from progress(map(_read, tasks), total=len(tasks), unit="file")
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context) as pool:
        yield from progress(pool.map(_read, tasks, chunksize=4), total=len(tasks), unit="file")


def largest_shear(facts: Facts) -> float:
    """Return the largest departure of the axes from right angles, in degrees."""
    axes = facts.geometry.affine[:3, :3] / np.linalg.norm(facts.geometry.affine[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    return float(np.degrees(np.arcsin(min(1.0, cosines))))


def axes_are_singular(facts: Facts) -> bool:
    """Say whether an axis has no direction of its own."""
    return bool(np.isnan(nib.io_orientation(facts.geometry.affine)).any())
