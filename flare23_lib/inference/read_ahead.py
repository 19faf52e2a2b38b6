"""Reading cases ahead, while another is computed, if the memory for both is there.

This module imports no torch: the first image is read while torch is being imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from flare23_lib.inference.image_files import HOST_BASE, PredictionCase, image_warnings
from flare23_lib.inference.outputs import Outputs
from flare23_lib.io.images import read_header, read_image
from flare23_lib.io.nifti import Volume

Check = Callable[[PredictionCase], object]
"""Raises an error if a case must not be read."""


@dataclass
class Reading:
    """A case that was read, or need not be.

    Attributes:
        volume: the image; None if the case's labels are there and whole.
        seconds: how long reading took.
        warnings: what makes it no sound CT, a line each.
        labels: those that are there, if files of other kinds are to be made from them.
    """

    volume: Volume | None
    seconds: float
    warnings: tuple[str, ...] = ()
    labels: Volume | None = None

    def release(self) -> None:
        """Let go of the image."""
        self.volume = None


class Reader:
    """Reads cases one by one in a thread, each when it is asked for.

    Args:
        cases: in the order in which they are wanted.
        overwrite: read also those whose labels are there and whole.
        outputs: what is wanted of a case.
    """

    def __init__(
        self, cases: Sequence[PredictionCase], overwrite: bool = False, outputs: Outputs | None = None
    ) -> None:
        self.cases = cases
        self._overwrite = overwrite
        self.outputs = outputs or Outputs()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._started: dict[int, Future[Reading]] = {}

    def start(self, index: int, check: Check | None = None) -> None:
        """Begin to read a case, unless that was done or there is none.

        Args:
            index: of the case.
            check: raises what speaks against reading its image; asked if its labels are not there already.
        """
        if index < len(self.cases) and index not in self._started:
            self._started[index] = self._thread.submit(self._read, self.cases[index], check)

    def start_early(self, limit: int) -> None:
        """Begin to read the first case if that alone stays within a limit of memory, in bytes.

        Whether it can be computed within the limit is only known with the model.
        """
        if self.cases:
            try:
                _, size = read_header(self.cases[0].image)
            except Exception:  # whatever is wrong with it is reported when it is its turn
                return
            if HOST_BASE + size <= limit:
                self.start(0)

    def started(self, index: int) -> bool:
        """Tell whether a case is read or being read."""
        return index in self._started

    def get(self, index: int, check: Check | None = None) -> Reading:
        """Return a case, once; raises what reading or checking it raised. Arguments as `start`."""
        self.start(index, check)
        return self._started.pop(index).result()

    def close(self) -> None:
        """Give up what has not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, case: PredictionCase, check: Check | None) -> Reading:
        started = time.perf_counter()
        if not self._overwrite:
            there, labels = self.outputs.find(case)
            if there:
                return Reading(None, time.perf_counter() - started, labels=labels)
        if check is not None:
            check(case)
        volume = read_image(case.image)
        return Reading(volume, time.perf_counter() - started, image_warnings(case.image, volume))
