"""One value per axis, in the order (z, y, x) of all arrays and spacings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Slices = tuple[slice, slice, slice]
"""A box in a (z, y, x) array."""


def as_triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Return three values as a tuple of known length; ValueError if there are not three."""
    found = tuple(values)
    if len(found) != 3:
        raise ValueError(f"{list(found)} is not one value per axis (z, y, x)")
    return found
