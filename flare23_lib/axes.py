"""One value per axis, in the order (z, y, x) of all arrays and spacings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

T = TypeVar("T")

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Slices = tuple[slice, slice, slice]
"""A box in a (z, y, x) array."""

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)
"""Neighbors of a voxel in a connected component: those that touch it at a face, an edge or a corner."""


def as_triple(values: Iterable[T], name: str = "value") -> tuple[T, T, T]:
    """Return three values as a tuple of known length; ValueError, with the name, if there are not three."""
    found = tuple(values)
    if len(found) != 3:
        raise ValueError(f"{name}: {list(found)} is not one number per axis (z, y, x)")
    return found
