"""How progress is shown: a bar with the time left when a person watches, a log line now and then when not."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

T = TypeVar("T")

LOG_SECONDS = 60.0
"""Least time between two log lines."""


def progress(
    items: Iterable[T], total: int | None = None, unit: str = "case", sizes: Sequence[int] | None = None
) -> Iterator[T]:
    """Iterate, and show how far it is and how long it will take.

    Args:
        items: what to iterate over.
        total: how many there are; needed if `items` has no length.
        unit: what one item is called.
        sizes: bytes of each item, if they differ so much that the time left follows from bytes, not from items.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    if sys.stderr.isatty():
        with logging_redirect_tqdm():
            if sizes is None:
                yield from tqdm(items, total=total, unit=unit, dynamic_ncols=True)
            else:
                yield from _bar_of_bytes(items, sizes, unit)
    else:
        yield from _logged(items, total, unit, sizes)


def _bar_of_bytes(items: Iterable[T], sizes: Sequence[int], unit: str) -> Iterator[T]:
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, dynamic_ncols=True) as bar:
        for done, (item, size) in enumerate(zip(items, sizes, strict=False), start=1):
            yield item
            bar.set_description(f"{done} of {len(sizes)} {unit}s", refresh=False)
            bar.update(size)


def _logged(items: Iterable[T], total: int | None, unit: str, sizes: Sequence[int] | None) -> Iterator[T]:
    whole = total if sizes is None else sum(sizes)
    begun = said = time.monotonic()
    reached = 0
    for done, (item, size) in enumerate(zip(items, repeat(1) if sizes is None else sizes, strict=False), start=1):
        yield item
        reached += size
        now = time.monotonic()
        if whole and reached and now - said >= LOG_SECONDS and done < (total or 0):
            said = now
            left = (now - begun) * (whole - reached) / reached
            log.info("%d of %d %ss, about %s left", done, total, unit, duration(left))


def duration(seconds: float) -> str:
    """Say a duration in words: `40 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
