"""Scores of many cases, in several processes.

A case without a usable prediction counts as 0 for every class, in both modes, and its status states
the reason. (The official FLARE23 script stops at a missing file; those of FLARE22 and FLARE24 leave
the case out.) A case without a usable reference has a status and no scores.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np

from flare23_lib.cache.results import DEEP_REMEDY
from flare23_lib.choices import EvaluationMode
from flare23_lib.config.models import Evaluation
from flare23_lib.config.settings import EvaluationSettings
from flare23_lib.dataset.image_info import value_counts
from flare23_lib.errors import EvaluationError, FlareError, ImageError, StoreError, first_line
from flare23_lib.evaluation.details import Details, measure_details
from flare23_lib.evaluation.metrics import METRICS, MIN_DSC_FOR_NSD, as_uint8, score_case
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.label_maps import LabelFiles, read_label_map
from flare23_lib.io.nifti import open_volume, read_labels
from flare23_lib.labels import IGNORE_VALUE, LabelMap
from flare23_lib.runtime.processes import in_processes

OK = "ok"
"""Status of a case that was scored."""

BYTES_PER_VOXEL = 8
"""Memory for scoring a voxel, without the two files as stored (benchmarks/evaluation.py)."""

DETAILS_BYTES_PER_VOXEL = 12
"""Further memory per voxel for details; two small tumors far apart take half of it, one that fills the volume all."""

PROCESS_MB = 150
"""Memory of a scoring process before it has read anything."""

FILE_ERRORS = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
    errno.EINVAL,
)  # fmt: skip
"""Errors of the operating system that are faults of a file."""


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    Attributes:
        labels: the structures.
        mode: see `metrics.Comparison`.
        min_dsc_for_nsd: see `metrics.score_case`.
        partial_references: classes that a reference does not hold were not labeled in it, unless its source says what
            was looked for; their cells stay empty.
        with_details: measure distances, volumes and tumors too (see `details`).
        unseen: names of classes that the model never saw in training; their cells stay empty.
        processes: maximum number of cases scored at once.
        stored_predictions: the predictions are files of the cache: one that cannot be read ends the evaluation.
        memory_mb: limit for all processes together in MB of 2**20 bytes, None for no limit; fewer
            processes run if the largest case needs it.
    """

    labels: LabelMap
    mode: EvaluationMode = "flare23"
    min_dsc_for_nsd: float = MIN_DSC_FOR_NSD
    partial_references: bool = False
    with_details: bool = False
    unseen: Sequence[str] = ()
    processes: int = 1
    memory_mb: float | None = None
    stored_predictions: bool = False

    @classmethod
    def from_settings(
        cls, settings: Evaluation | EvaluationSettings, labels: LabelMap, unseen: Sequence[str] = ()
    ) -> Scoring:
        """Return what the configuration's table `evaluation` contains."""
        partial_references = settings.references == "partial"
        return cls(labels, settings.mode, settings.min_dsc_for_nsd, partial_references, settings.details, unseen)

    @property
    def seen(self) -> LabelMap:
        """The structures without the unseen ones."""
        return LabelMap(tuple(label for label in self.labels.labels if label.name not in self.unseen))


@dataclass(frozen=True)
class Pair:
    """What is compared for one case: the label as its source keeps it, and a label map of our values (None: missing).

    `annotated` are the label values that were looked for in the reference, None for all; cells of others stay empty.
    """

    case: str
    reference: LabelFiles | Path
    prediction: Path | None
    annotated: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CaseScores:
    """The result of one case: scores by label name in the order of the map; NaN for a cell that stays empty.

    The status is `OK` or the reason, in one line, why the case could not be scored.
    """

    case: str
    scores: dict[str, dict[str, float]]
    status: str = OK
    details: Details | None = None


def score_cases(pairs: Sequence[Pair], scoring: Scoring) -> list[CaseScores]:
    """Score cases: a broken one gets a status that names its fault and does not stop the others.

    Raises:
        KilledError: a process was killed, or there is not enough memory for a case.
    """
    processes = affordable_processes(pairs, scoring)
    return list(in_processes(partial(_score, scoring), pairs, processes, attrgetter("case")))


def affordable_processes(pairs: Sequence[Pair], scoring: Scoring) -> int:
    """Return how many processes fit into the memory, 1 or more: each may score the largest case."""
    processes = min(scoring.processes, len(pairs))
    if scoring.memory_mb is not None and processes > 1:
        largest = PROCESS_MB + max(_needed_mb(pair, scoring.with_details) for pair in pairs)
        processes = min(processes, int(scoring.memory_mb / largest))
    return max(1, processes)


def _needed_mb(pair: Pair, with_details: bool) -> float:
    """Return the memory of a case by the headers of its files; 0 for broken ones, which are named later."""
    total, work = 0.0, BYTES_PER_VOXEL + DETAILS_BYTES_PER_VOXEL * with_details
    reference = pair.reference.first_file if isinstance(pair.reference, LabelFiles) else pair.reference
    for path in filter(None, (reference, pair.prediction)):
        with suppress(FlareError, OSError), open_volume(path) as stream:
            voxels = float(stream.header["dim"][1:4].astype(float).prod())
            total += voxels * (stream.dtype.itemsize + work / 2)
    return total / 2**20


def _score(scoring: Scoring, pair: Pair) -> CaseScores:
    labels, empty = scoring.labels, dict.fromkeys(METRICS, math.nan)
    try:
        volume = read_label_map(pair.reference)
        ignored = volume.array == IGNORE_VALUE
        volume.array[ignored] = 0
        reference = as_uint8(volume.array, labels, "reference")
    except (FlareError, OSError) as error:
        _raise_read_error(error)
        return CaseScores(pair.case, dict.fromkeys(labels.names, empty), f"no usable reference: {first_line(error)}")
    spacing = volume.geometry.spacing
    try:
        prediction = _read_prediction(pair, volume.geometry)
        prediction[ignored] = 0
        scores = score_case(reference, prediction, spacing, labels, scoring.mode, scoring.min_dsc_for_nsd)
        status = OK
    except (FlareError, OSError) as error:
        _raise_read_error(error)
        if scoring.stored_predictions and isinstance(error, (ImageError, OSError)):
            raise StoreError(f"{error}; {DEEP_REMEDY}") from error
        lost = {name: metric.no_prediction for name, metric in METRICS.items()}
        scores, status = dict.fromkeys(labels.names, lost), first_line(error)
        prediction = np.broadcast_to(np.uint8(0), reference.shape)
    scored = scoring.seen
    if pair.annotated is not None:
        scored = scored.restricted(pair.annotated)
    elif scoring.partial_references:
        scored = scored.restricted(map(int, value_counts(reference)))
    details = None
    if scoring.with_details:
        details = measure_details(pair.case, reference, prediction, spacing, scored)
    cells = {name: score if name in scored.names else empty for name, score in scores.items()}
    return CaseScores(pair.case, cells, status, details)


def _raise_read_error(error: Exception) -> None:
    """Raise EvaluationError for an error of the disk or the network, which is no fault of the file."""
    cause = error.__cause__ if isinstance(error, ImageError) else error
    if isinstance(cause, OSError) and cause.errno not in (None, *FILE_ERRORS):
        raise EvaluationError(f"{error}; nothing is scored") from error


def _read_prediction(pair: Pair, expected: Geometry) -> np.ndarray:
    """Return the prediction's values; EvaluationError if it is missing or has another geometry."""
    if pair.prediction is None:
        raise EvaluationError("the prediction is missing")
    with open_volume(pair.prediction) as stream:  # a broken header may ask for any amount of memory
        geometry = stream.geometry()
    if difference := geometry.difference(expected):
        raise EvaluationError(f"the prediction has another geometry than the reference: {difference}")
    return read_labels(pair.prediction).array
