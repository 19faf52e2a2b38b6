"""The one progress bar: drawn when a person watches, silent otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], total: int | None = None, unit: str = "case") -> Iterator[T]:
    """Iterate, with a bar and the time left on a terminal."""
    return iter(tqdm(items, total=total, unit=unit, disable=not sys.stderr.isatty(), dynamic_ncols=True))
