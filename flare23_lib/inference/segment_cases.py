"""The loop over cases: one image is read ahead, one is computed, one is being written.

This module imports no torch: the first image is read while torch is being imported.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flare23_lib.inference.image_files import HOST_BASE, PredictionCase, image_warnings
from flare23_lib.inference.outputs import Outputs
from flare23_lib.inference.training_images import unlike_training
from flare23_lib.io.images import read_header, read_image
from flare23_lib.io.nifti import Volume

if TYPE_CHECKING:
    import nibabel as nib

    from flare23_lib.inference.engine import Engine, Segmentation

Write = Callable[["PredictionCase", "Segmentation", "nib.Nifti1Header"], object]
"""Writes what is wanted of a case; called in a thread, with the header of the image."""


@dataclass
class Outcome:
    """A case that was segmented, or not.

    Attributes:
        kept: its labels existed already and are complete.
        seconds: by phase: read, resample, windows, labels, write.
        warnings: see `image_warnings` and `unlike_training`.
        error: why it could not be segmented; None if it was.
        image: what was read, until it is resampled; None if the labels are kept.
        labels: those that are kept, if files of other kinds are to be made from them.
    """

    case: PredictionCase
    kept: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: Exception | None = None
    image: Volume | None = None
    labels: Volume | None = None


class Reader:
    """Reads cases one by one in a thread, each when it is asked for.

    Args:
        cases: in the order in which they are wanted.
        overwrite: read also those whose labels are there and whole.
        outputs: what is wanted of a case; None for a reader that overwrites, and whose cases are written elsewhere.
    """

    def __init__(
        self, cases: Sequence[PredictionCase], overwrite: bool = False, outputs: Outputs | None = None
    ) -> None:
        self.cases = cases
        self._overwrite = overwrite
        self.outputs = outputs or Outputs()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._started: dict[int, Future[Outcome]] = {}

    def start(self, index: int, engine: Engine | None = None) -> None:
        """Begin to read a case, unless that was done.

        Unless its labels are there, an engine refuses it by its header if it exceeds the engine's limits of memory.
        """
        if index not in self._started:
            self._started[index] = self._thread.submit(self._read, self.cases[index], engine)

    def start_early(self, limit: int) -> None:
        """Begin to read the first case if that alone stays within a limit of memory, in bytes.

        Whether it can be computed within the limit is only known with the model.
        """
        with contextlib.suppress(Exception):  # whatever is wrong with it is reported when it is its turn
            if self.cases and HOST_BASE + read_header(self.cases[0].image)[1] <= limit:
                self.start(0)

    def get(self, index: int, engine: Engine) -> Outcome:
        """Return a case, once; raises what reading it raised, ImageError if it is refused. Arguments as `start`."""
        self.start(index, engine)
        return self._started.pop(index).result()

    def close(self) -> None:
        """Give up what has not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, case: PredictionCase, engine: Engine | None) -> Outcome:
        started = time.perf_counter()
        self.outputs.refuse_dicom(case)
        if not self._overwrite:
            there, labels = self.outputs.find(case)
            if there:
                return Outcome(case, kept=True, labels=labels)
        if engine is not None:
            engine.plan(*read_header(case.image), case.extras)  # refuses it
        if self.outputs.made_by:
            _ = case.identity  # of what is read now
        image = read_image(case.image)
        seconds = {"read": time.perf_counter() - started}
        return Outcome(case, seconds=seconds, warnings=image_warnings(case.image, image), image=image)


def segment_cases(engine: Engine, reader: Reader, write: Write) -> Iterator[Outcome]:
    """Segment a reader's cases and write them; yields each in order when it is written.

    An error of one case does not stop the others: it is in the case's outcome.
    """
    writing: tuple[Outcome, Future[float]] | None = None
    held = 0  # bytes of the case that is being written
    model = engine.model
    with contextlib.closing(reader), ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
        for index, case in enumerate(reader.cases):
            outcome, segmented = Outcome(case), None
            try:
                outcome = reader.get(index, engine)
                if outcome.image is not None:
                    outcome.warnings += unlike_training(model.training_images, model.orientation, outcome.image)
                    segmented = _segment(engine, reader, index, outcome, held)
            except Exception as error:  # whatever is wrong with it
                outcome.error, outcome.image = error, None
                _release(error)
            if writing is not None:
                yield _finished(*writing)
                writing, held = None, 0
            if segmented is None:
                yield _completed(outcome, reader.outputs)
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


def _release(error: BaseException) -> None:
    """Give up what the frames of an error hold, which else stays in memory while the next cases are computed."""
    import torch

    for one in (error, error.__cause__, error.__context__):
        if one is not None:
            traceback.clear_frames(one.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _finished(outcome: Outcome, writing: Future[float]) -> Outcome:
    """Wait until a case is written."""
    try:
        outcome.seconds["write"] = writing.result()
    except Exception as error:
        outcome.error = error
    return outcome


def _completed(outcome: Outcome, outputs: Outputs) -> Outcome:
    """Make the files that are missing beside labels that existed already."""
    labels, outcome.labels = outcome.labels, None
    if labels is not None:
        try:
            outputs.write(outcome.case, labels.array, labels.header, with_labels=False)
        except Exception as error:
            outcome.error = error
    return outcome


def _segment(
    engine: Engine, reader: Reader, index: int, outcome: Outcome, held: int
) -> tuple[Segmentation, nib.Nifti1Header, bool, int]:
    """Compute a case, reading the next one if there is memory for both (and the `held` bytes of the last one).

    A next one that cannot be read, or be computed within the engine's limit while this one is written, waits.

    Returns:
        The result, the image's header, whether the next case is being read, and the bytes that writing this takes.
    """
    case, image = outcome.case, outcome.image
    if image is None:
        raise ValueError(f"{case.name} was not read")
    # What its label maps take while they are being written, and what is made of them.
    maps = (case.extras.voxel_bytes + case.extras.writing_bytes) * image.array.size
    header, written = image.header, maps + reader.outputs.bytes(image.array.size, image.array.nbytes)
    ahead = False
    if index + 1 < len(reader.cases):
        plan = engine.plan(image.geometry, image.array.nbytes, case.extras)
        following = reader.cases[index + 1]
        with contextlib.suppress(Exception):  # whatever is wrong with it is reported when it is its turn
            geometry, size = read_header(following.image)
            after = engine.plan(geometry, size, following.extras).host + written
            ahead = max(plan.host + held + size, after) <= engine.limits.host_bytes()
        if ahead:
            reader.start(index + 1)
    prepared = engine.prepare(image, case.extras)
    # From here on only the resampled image is needed.
    outcome.image = None
    del image
    return engine.infer(prepared), header, ahead, written


def _timed(write: Write, case: PredictionCase, segmentation: Segmentation, header: nib.Nifti1Header) -> float:
    """Write a case, and return the seconds that took."""
    started = time.perf_counter()
    write(case, segmentation, header)
    return time.perf_counter() - started
