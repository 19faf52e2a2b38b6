"""Scores of many cases, each by itself, in several processes.

A case without a usable prediction counts as 0 for every class, in both modes, and its status says why. (The official
FLARE23 script stops at a missing file; those of FLARE22 and FLARE24 leave the case out.) A reference that cannot be
used is no fault of the model: the case has a status and no numbers.
"""

from __future__ import annotations

import errno
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flare23_lib.cache.results import REMEDY
from flare23_lib.config.models import Evaluation
from flare23_lib.config.settings import EvaluationSettings
from flare23_lib.errors import EvaluationError, FlareError, ImageError, StoreError
from flare23_lib.evaluation.details import Details, measure_details
from flare23_lib.evaluation.metrics import (
    MIN_DSC_FOR_NSD,
    Score,
    check_mode,
    score_case,
    unknown_values,
    unknown_values_error,
)
from flare23_lib.io.nifti import Volume, open_volume, read_labels
from flare23_lib.labels import LabelMap, take_ignored
from flare23_lib.runtime.progress import progress

OK = "ok"
"""Status of a case that was scored."""

BYTES_PER_VOXEL = 8
"""Memory that scoring takes for a voxel, beside the two files as they are stored (benchmarks/evaluation.py)."""

PROCESS_MB = 150
"""Memory that a scoring process takes before it has read anything."""

FILE_ERRORS = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
    errno.EINVAL,
)  # fmt: skip
"""Errors of the operating system that are faults of a file."""

EMPTY = Score(dsc=math.nan, nsd=math.nan)
"""Score of a cell that stays empty."""


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    Attributes:
        labels: the structures.
        mode: see `metrics.MODES`.
        min_dsc_for_nsd: see `metrics.score_case`.
        partial_references: a class that a reference does not hold was not labeled in it: its cells stay empty.
        with_details: measure distances, volumes and tumors too (see `details`).
        unseen: names of classes that the model never saw in training: their cells stay empty.
        stored_predictions: the predictions are files of the store: one that cannot be read ends the evaluation.

    Raises:
        ConfigError: `unseen` names a label that is not in the map.
        EvaluationError: there is no such mode.
    """

    labels: LabelMap
    mode: str = "flare23"
    min_dsc_for_nsd: float = MIN_DSC_FOR_NSD
    partial_references: bool = False
    with_details: bool = False
    unseen: Sequence[str] = ()
    stored_predictions: bool = False

    def __post_init__(self) -> None:
        check_mode(self.mode)
        for name in self.unseen:
            self.labels.value_of(name)

    @classmethod
    def from_settings(
        cls, settings: Evaluation | EvaluationSettings, labels: LabelMap, unseen: Sequence[str] = ()
    ) -> Scoring:
        """Return what the configuration's table `evaluation` says."""
        return cls(
            labels,
            mode=settings.mode,
            min_dsc_for_nsd=settings.min_dsc_for_nsd,
            partial_references=settings.references == "partial",
            with_details=settings.details,
            unseen=unseen,
        )

    @property
    def seen(self) -> LabelMap:
        """The structures without the unseen ones."""
        return LabelMap(tuple(label for label in self.labels.labels if label.name not in self.unseen))


@dataclass(frozen=True)
class Pair:
    """What is compared for one case; a prediction of None is missing."""

    case: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True)
class CaseScores:
    """The result of one case.

    Attributes:
        case: its name.
        scores: by label name, in the order of the map; `EMPTY` for a cell that stays empty.
        status: `OK`, or in one line why the case could not be scored.
        details: if they were asked for and the reference could be read.
    """

    case: str
    scores: dict[str, Score]
    status: str = OK
    details: Details | None = None


def score_cases(
    pairs: Sequence[Pair], scoring: Scoring, processes: int = 1, memory_mb: float | None = None
) -> list[CaseScores]:
    """Score cases, each by itself: a broken one gets a status that names its fault and does not stop the others.

    Args:
        pairs: the cases, in the order of the results.
        scoring: how.
        processes: how many cases are scored at a time, at most.
        memory_mb: how much memory they may take together, in MB of 2**20 bytes; fewer processes run if the largest
            case asks for it. None for no limit.

    Raises:
        EvaluationError: a process was killed, or there is not enough memory for a case.
    """
    processes = _affordable(pairs, min(processes, len(pairs)), memory_mb)
    return list(progress(_results(pairs, partial(_score_pair, scoring), processes), total=len(pairs)))


def _affordable(pairs: Sequence[Pair], processes: int, memory_mb: float | None) -> int:
    """Return how many processes fit into the memory, at least one: each may meet the largest case."""
    if memory_mb is None or processes <= 1:
        return processes
    largest = max(map(_needed_mb, pairs)) + PROCESS_MB
    return max(1, min(processes, int(memory_mb / largest)))


def _needed_mb(pair: Pair) -> float:
    """Return what a case takes by the headers of its files; broken ones, which are named later, take nothing."""
    total = 0.0
    for path in (pair.reference, pair.prediction):
        try:
            with open_volume(path) as stream:
                voxels = float(stream.header["dim"][1:4].astype(float).prod())
                total += voxels * (stream.dtype.itemsize + BYTES_PER_VOXEL / 2)
        except (FlareError, OSError, TypeError):
            continue
    return total / 2**20


def _results(pairs: Sequence[Pair], score: Callable[[Pair], CaseScores], processes: int) -> Iterator[CaseScores]:
    """Yield the result of each pair in order, from one process or several."""
    if processes <= 1:
        yield from map(score, pairs)
        return
    # a forked process would inherit the locks of threads that it does not have
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            yield from pool.map(score, pairs)
        except BrokenProcessPool as error:
            raise EvaluationError(
                "a scoring process was killed, probably because memory ran out; use fewer processes"
            ) from error


def _score_pair(scoring: Scoring, pair: Pair) -> CaseScores:
    """Score one case; EvaluationError if there is not enough memory for it, which is no fault of the case."""
    try:
        return _score(scoring, pair)
    except MemoryError as error:
        raise EvaluationError(f"{pair.case}: there is not enough memory to score it; use fewer processes") from error


def _score(scoring: Scoring, pair: Pair) -> CaseScores:
    labels = scoring.labels
    try:
        reference = read_labels(pair.reference)
    except (FlareError, OSError) as error:
        _raise_read_error(error)
        return _without_reference(pair, labels, error)
    spacing = reference.geometry.spacing
    ignored = take_ignored(reference.array)
    try:
        prediction = _read_prediction(pair, reference)
        if ignored is not None:
            prediction[ignored] = 0
        scores = score_case(reference.array, prediction, spacing, labels, scoring.mode, scoring.min_dsc_for_nsd)
        status = OK
    except (FlareError, OSError) as error:
        _raise_read_error(error)
        if scoring.stored_predictions and isinstance(error, (ImageError, OSError)):
            raise StoreError(f"{error}; {REMEDY}") from error
        if unknown_values(reference.array, labels):
            return _without_reference(pair, labels, unknown_values_error(reference.array, labels, "reference"))
        scores, status = dict.fromkeys(labels.names, Score(dsc=0.0, nsd=0.0)), _line(error)
        prediction = np.broadcast_to(np.uint8(0), reference.array.shape)
    scored = scoring.seen
    if scoring.partial_references:
        scored = scored.restricted(np.unique(reference.array))
    details = None
    if scoring.with_details:
        details = measure_details(pair.case, reference.array, prediction, spacing, scored)
    cells = {name: score if name in scored.names else EMPTY for name, score in scores.items()}
    return CaseScores(pair.case, cells, status, details)


def _raise_read_error(error: Exception) -> None:
    """Raise EvaluationError for an error of the disk or the network, which is no fault of the file."""
    cause = error.__cause__ if isinstance(error, ImageError) else error
    if isinstance(cause, OSError) and cause.errno not in (None, *FILE_ERRORS):
        raise EvaluationError(f"{error}; nothing is scored") from error


def _without_reference(pair: Pair, labels: LabelMap, error: Exception) -> CaseScores:
    return CaseScores(pair.case, dict.fromkeys(labels.names, EMPTY), f"no usable reference: {_line(error)}")


def _read_prediction(pair: Pair, reference: Volume) -> np.ndarray:
    """Return the prediction's values; EvaluationError if it is missing or has another geometry."""
    if pair.prediction is None:
        raise EvaluationError("the prediction is missing")
    with open_volume(pair.prediction) as stream:  # a broken header may ask for any amount of memory
        geometry = stream.geometry()
    if difference := geometry.difference(reference.geometry):
        raise EvaluationError(f"the prediction lies elsewhere than the reference: {difference}")
    return read_labels(pair.prediction).array


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
