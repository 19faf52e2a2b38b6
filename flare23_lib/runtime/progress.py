"""How progress is shown: a bar with the time left on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import repeat
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

T = TypeVar("T")

LOG_SECONDS = 60.0
"""Shortest time between two log lines."""


class Bar(contextlib.AbstractContextManager):
    """Shows how far some work is and how long it will take.

    Args:
        total: how many units of work there are; None if that is not known.
        unit: what one is called.
        name: what the work is, if it is one part of several: its bar does not stay.
        done: units that were done before.
        size: bytes in all, if units differ so much that the time left follows from bytes; `update` is given those of
            each. None if it follows from units.
        hidden: show nothing.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        name: str = "",
        done: int = 0,
        size: int | None = None,
        hidden: bool = False,
    ) -> None:
        self._total, self._unit, self._name = total, unit, name
        self._done, self._reached = done, 0
        self._whole = (total or 0) - done if size is None else size
        self._in_bytes = size is not None
        self._begun = self._logged = time.monotonic()
        self._hidden = hidden
        self._stack = contextlib.ExitStack()
        self._bar: tqdm | None = None
        if sys.stderr.isatty() and not hidden:
            self._stack.enter_context(logging_redirect_tqdm())
            shown = (
                {"total": size, "unit": "B", "unit_scale": True}
                if self._in_bytes
                else {"total": total, "initial": done, "unit": unit}
            )
            self._bar = self._stack.enter_context(
                tqdm(**shown, desc=name or None, leave=not name, dynamic_ncols=True)
            )

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def update(self, size: int = 1, note: str = "") -> None:
        """Count one unit more, of a size in bytes if those are counted; a note is shown in addition."""
        self._done += 1
        self._reached += size
        if self._bar is not None:
            if self._in_bytes:
                self._bar.set_description(f"{self._done} of {self._total} {self._unit}s", refresh=False)
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(size)
        elif not self._hidden and self._reached and self._total and self._done < self._total:
            self._log(note)

    def _log(self, note: str) -> None:
        now = time.monotonic()
        if now - self._logged < LOG_SECONDS:
            return
        self._logged = now
        left = (now - self._begun) * (self._whole - self._reached) / self._reached
        name, note = (f"{self._name}: " if self._name else ""), (f"; {note}" if note else "")
        log.info("%s%d of %d %ss, about %s left%s", name, self._done, self._total, self._unit, duration(left), note)


def progress(
    items: Iterable[T], total: int | None = None, unit: str = "case", sizes: Sequence[int] | None = None
) -> Iterator[T]:
    """Iterate, and show how far it is and how long it will take.

    `total` is needed if `items` has no length; `unit` is what one item is called. `sizes` are the bytes of each item,
    if they differ so much that the time left follows from bytes, not from items.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(total, unit, size=None if sizes is None else sum(sizes)) as bar:
        for item, size in zip(items, repeat(1) if sizes is None else sizes, strict=False):
            yield item
            bar.update(size)


def duration(seconds: float) -> str:
    """Format a duration: `40 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
