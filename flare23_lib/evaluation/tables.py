"""Scores of many cases, their tables and the comparison of two folders.

A *row* is one case: `Name`, `{label}_DSC` and `{label}_NSD` as raw numbers (None for a class that the model never
saw in training), and `status`: "ok", or in one line why the case could not be scored. Numbers are rounded where
the official script rounds: each case's values to 4 decimals, the means of these to 4 decimals, and the organ
score is the mean of the rounded class means.

A case without a usable prediction counts as 0 for every class, in both modes, and its status says why. (The
official FLARE23 script stops at a missing file; those of FLARE22 and FLARE24 leave the case out.)
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from flare23_lib import store
from flare23_lib.errors import EvaluationError, FlareError
from flare23_lib.evaluation.metrics import Score, check_mode, score_case
from flare23_lib.images import read_labels
from flare23_lib.labels import LabelMap

logger = logging.getLogger(__name__)

DECIMALS = 4
"""Decimals of scores in tables, as the official script rounds them."""

MEASURES = ("DSC", "NSD")

ORGANS = "organs"
"""Name of the summary's row with the mean of the organs' class means."""

UNSEEN = "not seen in training"
"""Note of a class that the model could not have learned."""

SUFFIX = ".nii.gz"

_SUMMARY_COLUMNS = (
    "class",
    "kind",
    "cases",
    *(f"{measure}_{statistic}" for measure in MEASURES for statistic in ("mean", "std", "median")),
    "note",
)


@dataclass(frozen=True)
class Pair:
    """What is compared for one case; a prediction of None is missing."""

    case: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True)
class Report:
    """What came of comparing two folders.

    Attributes:
        cases: number of references.
        scored: number of cases whose status is "ok".
        missing: cases without a prediction.
        extra: names of prediction files without a reference; they are left out.
        faults: one line per case that was not scored and per extra prediction.
        metrics: path of the table with a row per case.
        summary: path of the table with a row per class.
    """

    cases: int
    scored: int
    missing: list[str]
    extra: list[str]
    faults: list[str]
    metrics: Path
    summary: Path


# Scoring


def evaluate_cases(
    pairs: Sequence[Pair],
    labels: LabelMap,
    mode: str = "flare23",
    unseen: Collection[str] = (),
    processes: int = 1,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score cases, each by itself: a broken one gets 0 and a status that names its fault, the others go on.

    Args:
        pairs: the cases, in the order of the rows.
        labels: the structures.
        mode: see `metrics.MODES`.
        unseen: names of classes that the model never saw in training; their cells stay empty.
        processes: how many cases are scored at a time.
        progress: show a bar if a person watches (stderr is a terminal).

    Returns:
        A row per pair.

    Raises:
        ConfigError: `unseen` names a label that is not in the map.
        EvaluationError: there is no such mode, or a process was killed.
    """
    check_mode(mode)
    for name in unseen:
        labels.value_of(name)
    results = _results(pairs, partial(_score_pair, labels=labels, mode=mode), processes)
    bar = tqdm(results, total=len(pairs), desc="Scoring", unit="case", disable=None if progress else True)
    rows = []
    for pair, (scores, status) in zip(pairs, bar, strict=True):
        row: dict[str, Any] = {"Name": pair.case}
        for name in labels.names:
            score = scores[name]
            row[f"{name}_DSC"] = None if name in unseen else score.dsc
            row[f"{name}_NSD"] = None if name in unseen else score.nsd
        rows.append(row | {"status": status})
    return rows


def _results(
    pairs: Sequence[Pair], score: partial[tuple[dict[str, Score], str]], processes: int
) -> Iterator[tuple[dict[str, Score], str]]:
    """Yield the result of each pair in order, from one process or several."""
    processes = min(processes, len(pairs))
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


def _score_pair(pair: Pair, labels: LabelMap, mode: str) -> tuple[dict[str, Score], str]:
    """Return the scores of one case and its status."""
    try:
        return _read_and_score(pair, labels, mode), "ok"
    except (FlareError, OSError, MemoryError) as error:
        status = " ".join(str(error).split()) or type(error).__name__
        return dict.fromkeys(labels.names, Score(dsc=0.0, nsd=0.0)), status


def _read_and_score(pair: Pair, labels: LabelMap, mode: str) -> dict[str, Score]:
    reference = read_labels(pair.reference)
    if pair.prediction is None:
        raise EvaluationError("the prediction is missing")
    prediction = read_labels(pair.prediction)
    if difference := prediction.geometry.difference(reference.geometry):
        raise EvaluationError(f"the prediction lies elsewhere than the reference: {difference}")
    return score_case(reference.array, prediction.array, reference.geometry.spacing, labels, mode)


# Tables


def write_metrics(path: str | Path, rows: Sequence[Mapping[str, Any]], labels: LabelMap) -> None:
    """Write a row per case: Name, the DSC of every label, the NSD of every label (the official order), status."""
    scores = [f"{name}_{measure}" for measure in MEASURES for name in labels.names]
    store.write_csv(
        path,
        ["Name", *scores, "status"],
        ({"Name": row["Name"], **{key: _cell(row[key]) for key in scores}, "status": row["status"]} for row in rows),
    )


def summarize(
    rows: Sequence[Mapping[str, Any]], labels: LabelMap, unseen: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return a summary row per class, then the row `organs`.

    Means, standard deviations (of the population, over all cases) and medians are those of the rounded values
    that `write_metrics` writes. Cases whose cell is empty do not count. A class without any number has empty
    cells. The organs' mean is that of the organs that have one; the note says so if some have none.
    """
    summary = []
    for label in labels.labels:
        row: dict[str, Any] = {"class": label.name, "kind": label.kind}
        for measure in MEASURES:
            key = f"{label.name}_{measure}"
            cells = [] if label.name in unseen else [_number(row[key]) for row in rows]
            values = np.array([np.round(cell, DECIMALS) for cell in cells if cell is not None])
            row["cases"] = len(values)
            for statistic in ("mean", "std", "median"):
                row[f"{measure}_{statistic}"] = _cell(getattr(np, statistic)(values)) if len(values) else None
        summary.append(row | {"note": UNSEEN if label.name in unseen else ""})
    organs = [row for row in summary if row["kind"] == "organ"]
    if organs:
        summary.append(_organ_row(organs))
    return [{column: row.get(column) for column in _SUMMARY_COLUMNS} for row in summary]


def _organ_row(organs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"class": ORGANS, "kind": ORGANS, "cases": max(organ["cases"] for organ in organs)}
    known = 0
    for measure in MEASURES:
        means = [mean for organ in organs if (mean := organ[f"{measure}_mean"]) is not None]
        known = len(means)
        row[f"{measure}_mean"] = _cell(np.mean(means)) if means else None
    row["note"] = "" if known == len(organs) else f"mean of {known} of {len(organs)} organs"
    return row


def write_summary(
    path: str | Path, rows: Sequence[Mapping[str, Any]], labels: LabelMap, unseen: Collection[str] = ()
) -> None:
    """Write the rows of `summarize`."""
    store.write_csv(path, _SUMMARY_COLUMNS, summarize(rows, labels, unseen))


def format_summary(path_or_rows: str | Path | Sequence[Mapping[str, Any]]) -> str:
    """Return a summary (the file or its rows) as a table for the terminal: organs, their mean, the other kinds."""
    is_path = isinstance(path_or_rows, str | Path)
    rows = store.read_csv(path_or_rows) if is_path else path_or_rows
    lines = [("class", "DSC", "NSD", "cases", "")]
    order = {"organ": 0, ORGANS: 1}
    rows = sorted(rows, key=lambda row: order.get(row["kind"], 2))
    for row in rows:
        name = "organs, mean" if row["kind"] == ORGANS else row["class"]
        means = [_number(row[f"{measure}_mean"]) for measure in MEASURES]
        shown = ["-" if mean is None else f"{mean:.{DECIMALS}f}" for mean in means]
        lines.append((name, *shown, str(row["cases"]), row["note"] or ""))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    texts = [
        "  ".join(
            [line[0].ljust(widths[0]), *(line[column].rjust(widths[column]) for column in (1, 2, 3)), line[4]]
        ).rstrip()
        for line in lines
    ]
    texts.insert(1, "-" * (sum(widths) + 2 * 3))
    return "\n".join(texts)


def _number(cell: Any) -> float | None:
    """Return the number in a cell, None for an empty cell or NaN."""
    if cell is None or cell == "" or np.isnan(float(cell)):
        return None
    return float(cell)


def _cell(value: Any) -> float | None:
    """Return a number rounded for a table, None for an empty cell or NaN."""
    number = _number(value)
    return None if number is None else float(np.round(number, DECIMALS))


# Folders


def evaluate_folders(
    predictions: str | Path,
    references: str | Path,
    output: str | Path,
    labels: LabelMap,
    mode: str = "flare23",
    processes: int = 1,
    unseen: Collection[str] = (),
    progress: bool = False,
) -> Report:
    """Score every reference against the prediction of the same name and write metrics.csv and summary.csv.

    Args:
        predictions: folder with X.nii.gz.
        references: folder with X.nii.gz.
        output: folder for the two tables; made if missing.
        labels: the structures.
        mode: see `metrics.MODES`.
        processes: how many cases are scored at a time.
        unseen: names of classes that the model never saw in training.
        progress: show a bar if a person watches.

    Raises:
        EvaluationError: a folder is missing, no reference is there, or as `evaluate_cases`.
        ConfigError: `unseen` names a label that is not in the map.
    """
    truth, found = (
        _files(Path(folder), kind) for folder, kind in ((references, "reference"), (predictions, "prediction"))
    )
    if not truth:
        raise EvaluationError(f"{references}: holds no references (*{SUFFIX})")
    pairs = [Pair(case, path, found.get(case)) for case, path in truth.items()]
    rows = evaluate_cases(pairs, labels, mode, unseen, processes, progress)
    extra = [path.name for case, path in found.items() if case not in truth]
    faults = [f"{row['Name']}: {row['status']}" for row in rows if row["status"] != "ok"]
    faults += [f"{name}: has no reference and was left out" for name in extra]
    for fault in faults:
        logger.warning(fault)
    metrics, summary = Path(output) / "metrics.csv", Path(output) / "summary.csv"
    write_metrics(metrics, rows, labels)
    write_summary(summary, rows, labels, unseen)
    return Report(
        cases=len(rows),
        scored=sum(row["status"] == "ok" for row in rows),
        missing=[pair.case for pair in pairs if pair.prediction is None],
        extra=extra,
        faults=faults,
        metrics=metrics,
        summary=summary,
    )


def _files(folder: Path, kind: str) -> dict[str, Path]:
    """Return the label files of a folder by case, sorted; EvaluationError if there is no such folder."""
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: there is no such folder of {kind}s")
    files = sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
    return {path.name.removesuffix(SUFFIX): path for path in files}
