"""The loop over cases: one image is read ahead, one is computed, one is being written.

This module imports no torch, so that what uses it can be imported in a moment.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flare23_lib.inference.image_files import WRITING, PredictionCase
from flare23_lib.inference.outputs import Outputs
from flare23_lib.inference.read_ahead import Reader, Reading
from flare23_lib.inference.training_images import unlike_training
from flare23_lib.io.images import read_header
from flare23_lib.io.nifti import Volume

if TYPE_CHECKING:
    import nibabel as nib

    from flare23_lib.inference.engine import Engine, Segmentation

log = logging.getLogger(__name__)

Write = Callable[["PredictionCase", "Segmentation", "nib.Nifti1Header"], object]
"""Writes what is wanted of a case; called in a thread, with the header of the image."""


@dataclass
class Outcome:
    """A case that was segmented, or not.

    Attributes:
        case: the case.
        kept: its labels existed already and are complete.
        labels: those, if other files are to be made of them.
        seconds: by phase: read, resample, windows, labels, write.
        warnings: see `image_warnings` and `unlike_training`.
        error: why it could not be segmented; None if it was.
    """

    case: PredictionCase
    kept: bool = False
    labels: Volume | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: Exception | None = None


def segment_cases(engine: Engine, reader: Reader, write: Write) -> Iterator[Outcome]:
    """Segment a reader's cases and write them; yields each in order when it is written.

    An error of one case does not stop the others: it is in the case's outcome.

    Args:
        engine: segments the images.
        reader: reads them.
        write: writes the result.
    """
    writing: tuple[Outcome, Future[float]] | None = None
    held = 0  # bytes of the case that is being written
    with contextlib.closing(reader), ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
        for index, case in enumerate(reader.cases):
            outcome, segmented = Outcome(case), None
            try:
                reading = reader.get(index, functools.partial(_check_memory, engine))
                outcome.kept, outcome.labels = reading.volume is None, reading.labels
                if reading.volume is not None:
                    model = engine.model
                    unlike = unlike_training(model.training_images, model.orientation, reading.volume)
                    outcome.warnings = (*reading.warnings, *unlike)
                    outcome.seconds["read"] = reading.seconds
                    segmented = _segment(engine, reader, index, reading, held)
            except Exception as error:  # whatever is wrong with it
                outcome.error = error
            if writing is not None:
                yield _finished(*writing)
                writing, held = None, 0
            if segmented is None:
                yield outcome
                continue
            segmentation, header, ahead, held = segmented
            outcome.seconds |= segmentation.timings
            writing = outcome, writer.submit(_timed, write, case, segmentation, header)
            del segmented, segmentation
            if not ahead:
                yield _finished(*writing)
                writing, held = None, 0
        if writing is not None:
            yield _finished(*writing)


def _finished(outcome: Outcome, writing: Future[float]) -> Outcome:
    """Wait until a case is written."""
    try:
        outcome.seconds["write"] = writing.result()
    except Exception as error:
        outcome.error = error
    return outcome


def _segment(
    engine: Engine, reader: Reader, index: int, reading: Reading, held: int
) -> tuple[Segmentation, nib.Nifti1Header, bool, int]:
    """Compute a case, reading the next one if there is memory for both (and the `held` bytes of the last one).

    Returns:
        The result, the image's header, whether the next case is being read, and the bytes that writing this takes.
    """
    case, volume = reader.cases[index], reading.volume
    if volume is None:
        raise ValueError(f"{case.name} was not read")
    header, written = volume.header, _written_bytes(case, volume, reader.outputs)
    ahead = False
    if index + 1 < len(reader.cases):
        plan = engine.plan(volume.geometry, volume.array.nbytes, case.exclude, case.count_votes)
        ahead = can_prefetch(engine, plan.host + held, reader.cases[index + 1], written)
        if ahead:
            reader.start(index + 1)
    prepared = engine.prepare(volume, case.exclude, case.count_votes)
    # From here on only the resampled image is needed.
    reading.release()
    del volume
    return engine.infer(prepared), header, ahead, written


def can_prefetch(engine: Engine, taken: int, following: PredictionCase, written: int) -> bool:
    """Tell whether the next image may be read while a case is computed, within the engine's limit of memory.

    Args:
        engine: with its limits.
        taken: bytes that are taken until then.
        following: the next case; one that cannot be read, or not be segmented within the limit, is not read ahead.
        written: bytes that this case takes while the next one is computed.
    """
    try:
        geometry, size = read_header(following.image)
        after = engine.plan(geometry, size, following.exclude, following.count_votes).host + written
    except Exception:  # whatever is wrong with it is reported when it is its turn
        return False
    return max(taken + size, after) <= engine.limits.host_bytes()


def _written_bytes(case: PredictionCase, volume: Volume, outputs: Outputs) -> int:
    """Return what a case's label maps take while they are being written, and what is made of them."""
    voxels = volume.array.size
    maps = (1 + bool(case.exclude) + case.count_votes + WRITING) * voxels
    return maps + outputs.bytes(voxels, volume.array.nbytes)


def _check_memory(engine: Engine, case: PredictionCase) -> None:
    """Check by its header that an image can be segmented within the limits; ImageError if not."""
    engine.plan(*read_header(case.image), case.exclude, case.count_votes)


def _timed(write: Write, case: PredictionCase, segmentation: Segmentation, header: nib.Nifti1Header) -> float:
    """Write a case, and return the seconds that took."""
    started = time.perf_counter()
    write(case, segmentation, header)
    return time.perf_counter() - started
