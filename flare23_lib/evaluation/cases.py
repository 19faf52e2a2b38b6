"""Scores of many cases, each by itself, in several processes.

A *row* is one case: `Name`, `{label}_DSC` and `{label}_NSD` as raw numbers (None where there is none), and `status`:
"ok", or in one line why the case could not be scored.

A case without a usable prediction counts as 0 for every class, in both modes, and its status says why. (The official
FLARE23 script stops at a missing file; those of FLARE22 and FLARE24 leave the case out.) A reference that cannot be
used is no fault of the model: the case has a status and no numbers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib.errors import EvaluationError, FlareError
from flare23_lib.evaluation.details import Details, measure_details
from flare23_lib.evaluation.metrics import Score, check_mode, score_case, unknown_values, unknown_values_error
from flare23_lib.images import Volume, open_volume, read_labels
from flare23_lib.labels import LabelMap
from flare23_lib.progress import progress

OK = "ok"
"""Status of a case that was scored."""

BYTES_PER_VOXEL = 8
"""Memory that scoring takes for a voxel, beside the two files as they are stored (benchmarks/evaluation.py)."""

PROCESS_MB = 150
"""Memory that a scoring process takes before it has read anything."""


@dataclass(frozen=True)
class Pair:
    """What is compared for one case; a prediction of None is missing."""

    case: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True)
class Scored:
    """What came of one case; scores of None are cells that stay empty."""

    scores: dict[str, Score | None]
    status: str
    details: Details | None = None


def evaluate_cases(
    pairs: Sequence[Pair],
    labels: LabelMap,
    mode: str = "flare23",
    unseen: Collection[str] = (),
    processes: int = 1,
    memory_mb: float | None = None,
    with_details: bool = False,
    partial_references: bool = False,
) -> tuple[list[dict[str, Any]], list[Details]]:
    """Score cases, each by itself: a broken one gets a status that names its fault, the others go on.

    Args:
        pairs: the cases, in the order of the rows.
        labels: the structures.
        mode: see `metrics.MODES`.
        unseen: names of classes that the model never saw in training; their cells stay empty.
        processes: how many cases are scored at a time, at most.
        memory_mb: how much memory they may take together, in MB of 2**20 bytes; fewer processes run if the largest
            case asks for it. None for no limit.
        with_details: measure distances, volumes and tumors too (see `details`).
        partial_references: a class that a reference does not hold was not labeled in it: its cells stay empty.

    Returns:
        A row per pair; the details of every pair that was scored, none without `with_details`.

    Raises:
        ConfigError: `unseen` names a label that is not in the map.
        EvaluationError: there is no such mode, a process was killed, or there is not enough memory for a case.
    """
    check_mode(mode)
    for name in unseen:
        labels.value_of(name)
    processes = _affordable(pairs, min(processes, len(pairs)), memory_mb)
    options = {"with_details": with_details, "partial_reference": partial_references}
    score = partial(_score_pair, labels=labels, mode=mode, **options)
    rows, details = [], []
    for pair, scored in zip(pairs, progress(_results(pairs, score, processes), total=len(pairs)), strict=True):
        row: dict[str, Any] = {"Name": pair.case}
        for name in labels.names:
            value = None if name in unseen else scored.scores[name]
            row[f"{name}_DSC"] = None if value is None else value.dsc
            row[f"{name}_NSD"] = None if value is None else value.nsd
        rows.append(row | {"status": scored.status})
        if scored.details is not None:
            details.append(scored.details)
    return rows, details


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


def _results(pairs: Sequence[Pair], score: partial[Scored], processes: int) -> Iterator[Scored]:
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
                "a scoring process was killed, probably for want of memory; use fewer processes"
            ) from error


def _score_pair(pair: Pair, labels: LabelMap, mode: str, with_details: bool, partial_reference: bool) -> Scored:
    """Return the scores of one case and its status; EvaluationError if there is not enough memory for it."""
    try:
        return _score(pair, labels, mode, with_details, partial_reference)
    except MemoryError as error:  # no fault of the case's
        raise EvaluationError(f"{pair.case}: there is not enough memory to score it; use fewer processes") from error


def _score(pair: Pair, labels: LabelMap, mode: str, with_details: bool, partial_reference: bool) -> Scored:
    try:
        reference = read_labels(pair.reference)
    except (FlareError, OSError) as error:
        return Scored(dict.fromkeys(labels.names), f"no usable reference: {_line(error)}")
    spacing = reference.geometry.spacing
    try:
        prediction = _read_prediction(pair, reference)
        scores, status = score_case(reference.array, prediction, spacing, labels, mode), OK
    except (FlareError, OSError) as error:
        if unknown_values(reference.array, labels):
            fault = unknown_values_error(reference.array, labels, "reference")
            return Scored(dict.fromkeys(labels.names), f"no usable reference: {fault}")
        scores, status = dict.fromkeys(labels.names, Score(dsc=0.0, nsd=0.0)), _line(error)
        prediction = np.broadcast_to(np.uint8(0), reference.array.shape)
    if partial_reference:
        labels = labels.restricted(np.unique(reference.array))
        scores = {name: score if name in labels.names else None for name, score in scores.items()}
    details = measure_details(pair.case, reference.array, prediction, spacing, labels) if with_details else None
    return Scored(scores, status, details)


def _read_prediction(pair: Pair, reference: Volume) -> np.ndarray:
    """Return the prediction's values; EvaluationError if it is missing or lies elsewhere."""
    if pair.prediction is None:
        raise EvaluationError("the prediction is missing")
    with open_volume(pair.prediction) as stream:  # a broken header may ask for any amount of memory
        geometry = stream.geometry()
    if difference := geometry.difference(reference.geometry):
        raise EvaluationError(f"the prediction lies elsewhere than the reference: {difference}")
    return read_labels(pair.prediction).array


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
