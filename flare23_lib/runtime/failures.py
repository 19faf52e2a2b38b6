"""Cases that fail in a job: each is named in one line, and the others are done."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from flare23_lib.errors import CasesFailedError, KilledError, LockError, listed, one_line
from flare23_lib.runtime.signals import StoppedError

log = logging.getLogger(__name__)

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What is no fault of a case: every other one would end in it, too."""


def concerns_all(error: BaseException) -> bool:
    """Say whether an error is no fault of one case, so that the job ends with it."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return True
    return isinstance(error, (LockError, StoppedError, KilledError)) or not isinstance(error, Exception)


class CaseFailures:
    """The cases that failed so far of those of a job."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.lines: dict[str, str] = {}

    @contextlib.contextmanager
    def case(self, name: str, path: str | Path) -> Iterator[None]:
        """Do what is done for a case: an error in it is logged, and nothing more is done for the case.

        `path` is the file that an error is about that names none.
        """
        try:
            yield
        except BaseException as error:
            if concerns_all(error):
                raise
            log.debug("%s", name, exc_info=error)
            self.add(name, one_line(path, error))

    def add(self, name: str, line: str) -> None:
        """Note and log a case that failed."""
        self.lines[name] = line
        log.error("%s: %s", name, line)

    def raise_any(self) -> None:
        """End the job if a case failed.

        Raises:
            CasesFailedError: it names them.
        """
        if not self.lines:
            return
        first = next(iter(self.lines.values()))
        rest = "; the log names the others" if len(self.lines) > 1 else ""
        count = f"{len(self.lines)} of {self.total} cases"
        raise CasesFailedError(f"{count} failed ({listed(list(self.lines))}), the others are done: {first}{rest}")
