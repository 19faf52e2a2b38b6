"""Where the classes of a label map are, for the sampling of patches: nnU-Net's `class_locations`, in little memory.

nnU-Net 2.8.1 (`DefaultPreprocessor._sample_foreground_locations`) lists and sorts the coordinates of all voxels,
about 100 bytes for each. Here voxels are drawn by their rank within the class, and found slice by slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

MIN_VOXELS, MIN_SHARE = 10_000, 0.01
"""Voxels of a class that are kept: at least so many, at least this share, or all there are (nnU-Net's numbers)."""

SEED = 1234
"""nnU-Net's."""

Locations = Mapping[int | tuple[int, ...], np.ndarray]


def class_locations(labels: np.ndarray, classes: Sequence[int]) -> Locations:
    """Draw voxels of each class, and of all that is not to be ignored.

    Args:
        labels: (z, y, x) uint8 indices; what is neither 0 nor one of `classes` is to be ignored.
        classes: the foreground classes.

    Returns:
        For each class (n, 4) integers: channel (0), z, y, x, sorted. Under the key (-1, 0, *classes) the same for all
        voxels that are not ignored, where nnU-Net draws the patches that are not forced onto foreground; 10,000 of
        them are enough, since any voxel serves.
    """
    rng = np.random.default_rng(SEED)
    counts = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in labels])
    found: dict[int | tuple[int, ...], np.ndarray] = {}
    for value in classes:
        total = int(counts[:, value].sum())
        wanted = max(MIN_VOXELS, int(np.ceil(MIN_SHARE * total)))
        found[value] = _draw(labels, [value], counts, wanted, rng)
    found[(-1, 0, *classes)] = _draw(labels, [0, *classes], counts, MIN_VOXELS, rng)
    return found


def _draw(
    labels: np.ndarray, values: Sequence[int], counts: np.ndarray, wanted: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw voxels that hold one of the values, each equally likely and none twice.

    Args:
        labels: (z, y, x).
        values: what to look for.
        counts: voxels by slice and value.
        wanted: how many; all if there are fewer.
        rng: random generator.
    """
    ends = np.cumsum(counts[:, list(values)].sum(axis=1))
    total = int(ends[-1])
    ranks = np.sort(rng.choice(total, min(wanted, total), replace=False))
    chosen = np.zeros(256, bool)
    chosen[list(values)] = True
    rows = [np.empty((0, 4), np.int32)]
    for z in np.unique(np.searchsorted(ends, ranks, side="right")):
        first = ends[z - 1] if z else 0
        inside = ranks[np.searchsorted(ranks, first) : np.searchsorted(ranks, ends[z])] - first
        y, x = np.unravel_index(np.flatnonzero(chosen[labels[z]])[inside], labels.shape[1:])
        rows.append(np.stack([np.zeros_like(y), np.full_like(y, z), y, x], axis=1).astype(np.int32))
    return np.concatenate(rows)
