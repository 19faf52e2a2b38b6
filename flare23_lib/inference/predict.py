"""Segment a file or a folder of CTs: one case is read ahead, one is computed, one is being written."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from flare23_lib.errors import one_line
from flare23_lib.inference.bundle import axis_warning
from flare23_lib.inference.engine import Engine, Segmentation
from flare23_lib.inference.image_files import PredictionCase, Reader, Reading, can_prefetch, held_bytes
from flare23_lib.inference.memory import WRITING, MemoryPlan
from flare23_lib.inference.timing import PHASES
from flare23_lib.io.nifti import open_volume, write_volume
from flare23_lib.io.tables import write_csv
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be segmented: its name, its image and the reason in one line."""

    case: str
    path: Path
    message: str


def predict(
    reader: Reader, engine: Engine, timings: Path | None = None, start: dict[str, float] | None = None
) -> list[FailedCase]:
    """Segment cases and write `X.nii.gz` for each `X_0000.nii.gz` or `X.nii.gz`.

    Labels are uint8 with the header of their image, geometry to the last bit. What is there and whole is not made
    again, unless the reader says so. A case that fails is logged and does not stop the others.

    Args:
        reader: gives the cases.
        engine: segments them.
        timings: CSV for the seconds per phase of each case; None for none.
        start: seconds of the phases that come before the first case.

    Returns:
        The cases that failed.
    """
    run = _Run(reader, engine, timings, start or {})
    with contextlib.closing(reader), ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
        for index in progress(range(len(reader.cases))):
            run.case(index, writer)
        run.finish_writing()
    return run.faults


@dataclass(frozen=True)
class _Written:
    """Labels on their way to the disk.

    Attributes:
        index: of the case.
        future: done when they are written; gives the seconds that took.
        seconds: of the phases before.
        bytes: that are held until then.
    """

    index: int
    future: Future[float]
    seconds: dict[str, float]
    bytes: int


class _Run:
    """The state of one call of `predict`."""

    def __init__(self, reader: Reader, engine: Engine, timings: Path | None, start: dict[str, float]) -> None:
        self.reader, self.engine, self.timings = reader, engine, timings
        self.faults: list[FailedCase] = []
        self._start = start
        self._rows: list[dict[str, float | str]] = []
        self._writing: _Written | None = None

    def case(self, index: int, writer: ThreadPoolExecutor) -> None:
        """Segment one case and leave its labels to the writer."""
        try:
            reading = self.reader.get(index, functools.partial(_check_memory, self.engine))
            if reading.volume is None:
                log.info("%s: %s is there already", self._number(index), self.reader.cases[index].labels)
                return
            axes = axis_warning(self.engine.model, reading.volume.geometry)
            for warning in (*reading.warnings, *filter(None, [axes])):
                log.warning("%s: %s: %s", self._number(index), self.reader.cases[index].image, warning)
            seconds, header, ahead, result = self._segment(index, reading)
        except Exception as error:  # one case must not stop the others, whatever is wrong with it
            self._fault(index, error)
            return
        self.finish_writing()
        future = writer.submit(_write, self.reader.cases[index], result.labels, header)
        self._writing = _Written(index, future, seconds | result.timings, _labels_bytes(result.labels.size))
        if not ahead:
            self.finish_writing()

    def _segment(self, index: int, reading: Reading) -> tuple[dict[str, float], nib.Nifti1Header, bool, Segmentation]:
        """Compute a case; returns the seconds before, its header, whether the next one is read, and the result."""
        seconds, self._start = {**self._start, "read": reading.seconds}, {}
        volume = reading.volume
        header = volume.header
        plan = self.engine.plan(volume.geometry, volume.array.nbytes)
        ahead = self._room_for_next(index, plan, _labels_bytes(volume.array.size))
        if ahead:
            self.reader.start(index + 1)
        prepared = self.engine.prepare(volume)
        # From here on only the resampled image is needed.
        reading.release()
        del volume
        return seconds, header, ahead, self.engine.infer(prepared)

    def _room_for_next(self, index: int, plan: MemoryPlan, labels: int) -> bool:
        """Tell whether the next case may be read while this one is computed and the last one written."""
        if index + 1 >= len(self.reader.cases):
            return False
        held = self._writing.bytes if self._writing else 0
        return can_prefetch(self.engine, plan, self.reader.cases[index + 1].image, held, labels)

    def finish_writing(self) -> None:
        """Wait for the labels that are being written, and report the case."""
        if self._writing is None:
            return
        written, self._writing = self._writing, None
        case = self.reader.cases[written.index]
        try:
            seconds = {**written.seconds, "write": written.future.result()}
        except Exception as error:
            self._fault(written.index, error)
            return
        phases = ", ".join(f"{name} {seconds[name]:.1f} s" for name in PHASES if name in seconds)
        log.info("%s: %s (%s)", self._number(written.index), case.labels, phases)
        self._rows.append({"case": case.name, **{name: round(value, 3) for name, value in seconds.items()}})
        if self.timings is not None:
            write_csv(self.timings, ["case", *PHASES], self._rows)

    def _number(self, index: int) -> str:
        return f"{index + 1} of {len(self.reader.cases)}"

    def _fault(self, index: int, error: Exception) -> None:
        case = self.reader.cases[index]
        log.debug("%s", case.image, exc_info=error)
        fault = FailedCase(case.name, case.image, one_line(case.image, error))
        log.error("%s: %s", self._number(index), fault.message)
        self.faults.append(fault)


def _labels_bytes(voxels: int) -> int:
    """Return what a case's labels take while they are being written."""
    return (1 + WRITING) * voxels


def _check_memory(engine: Engine, image: Path) -> None:
    """Check by its header that an image can be segmented within the limits; ImageError if not."""
    with open_volume(image) as stream:
        engine.plan(stream.geometry(), held_bytes(stream))


def _write(case: PredictionCase, labels: np.ndarray, header: nib.Nifti1Header) -> float:
    started = time.perf_counter()
    write_volume(case.labels, labels, header)
    return time.perf_counter() - started
