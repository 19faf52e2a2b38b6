"""Evaluation of a list of cases into a folder of tables, and of two folders whose files have the same names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.cases import OK, Pair, Scoring, score_cases
from flare23_lib.evaluation.details import write_details
from flare23_lib.evaluation.tables import score_table, summarize, write_metrics, write_summary
from flare23_lib.io.nifti import SUFFIXES, stem

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"
SUMMARY_FILE = "summary.csv"


def evaluate_cases(
    pairs: Sequence[Pair], scoring: Scoring, output: Path, processes: int = 1, memory_mb: float | None = None
) -> pd.DataFrame:
    """Score cases and write metrics.csv, summary.csv and, with details, their tables; log every fault.

    Args:
        pairs: case, reference and prediction, in the order of the rows.
        scoring: how they are scored.
        output: folder for the tables; made if missing. Tables of details that are not written now are removed from
            it: they would stay beside other scores.
        processes: as `score_cases`.
        memory_mb: as `score_cases`.

    Returns:
        A row per case (`tables.score_table`).

    Raises:
        EvaluationError: as `score_cases`.
    """
    cases = score_cases(pairs, scoring, processes, memory_mb)
    for case in cases:
        if case.status != OK:
            log.warning("%s: %s", case.case, case.status)
    table = score_table(cases, scoring.labels)
    write_metrics(output / METRICS_FILE, table)
    write_summary(output / SUMMARY_FILE, summarize(table, scoring.labels, scoring.unseen))
    details = [case.details for case in cases if case.details is not None]
    write_details(output, details if scoring.with_details else None, scoring.seen)
    return table


@dataclass(frozen=True)
class Report:
    """The result of comparing two folders.

    Attributes:
        cases: number of references.
        scored: number of cases whose status is "ok".
        missing: cases without a prediction.
        extra: names of prediction files without a reference; they are left out.
        metrics: path of the table with a row per case.
        summary: path of the table with a row per class.
    """

    cases: int
    scored: int
    missing: list[str]
    extra: list[str]
    metrics: Path
    summary: Path

    @property
    def is_complete(self) -> bool:
        """Whether every reference was scored and every prediction has one."""
        return self.scored == self.cases and not self.extra


def evaluate_folders(
    predictions: Path,
    references: Path,
    output: Path,
    scoring: Scoring,
    processes: int = 1,
    memory_mb: float | None = None,
    reference_suffix: str | None = None,
) -> Report:
    """Score every reference against the prediction of the same name, as `evaluate_cases`.

    Args:
        predictions: folder with X.nii.gz or X.nii.
        references: folder with X.nii.gz or X.nii, or with X and `reference_suffix`.
        output: as `evaluate_cases`.
        scoring: as `evaluate_cases`.
        processes: as `score_cases`.
        memory_mb: as `score_cases`.
        reference_suffix: what follows a case's name in its reference's file name, such as `_seg.nii.gz`; where no
            file ends so, or for None, `.nii.gz` or `.nii`.

    Raises:
        EvaluationError: a folder is missing, no reference is there, no prediction has the name of one, or as
            `score_cases`.
    """
    found = _files(predictions, "prediction")
    truth = _files(references, "reference", reference_suffix)
    if not truth:
        raise EvaluationError(f"{references}: holds no references (*{' or *'.join(SUFFIXES)})")
    if found and not set(found) & set(truth):
        one, other = (next(iter(files.values())).name for files in (found, truth))
        raise EvaluationError(
            f"{predictions}: no prediction has the name of a reference ({one} here, {other} in {references}); "
            "the configuration's layout.label_suffix says what follows a name in a reference's"
        )
    pairs = [Pair(case, path, found.get(case)) for case, path in truth.items()]
    table = evaluate_cases(pairs, scoring, output, processes, memory_mb)
    extra = [path.name for case, path in found.items() if case not in truth]
    for name in extra:
        log.warning("%s: has no reference and was left out", name)
    return Report(
        cases=len(table),
        scored=int((table["status"] == OK).sum()),
        missing=[case for case in truth if case not in found],
        extra=extra,
        metrics=output / METRICS_FILE,
        summary=output / SUMMARY_FILE,
    )


def _files(folder: Path, kind: str, suffix: str | None = None) -> dict[str, Path]:
    """Return the label files of a folder by case, sorted; where some end in a suffix of their own, only those.

    Raises:
        EvaluationError: there is no such folder, or a case has two files.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: there is no such folder of {kind}s")
    named = {path: stem(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    if suffix not in (None, *SUFFIXES):
        own = {path: path.name.removesuffix(suffix) for path in named if path.name.endswith(suffix)}
        others = [path.name for path, case in named.items() if case and path not in own]
        if own and others:
            log.warning("%s: %d files do not end in %s and are no %ss: %s", folder, len(others), suffix, kind,
                        ", ".join(others[:5]))  # fmt: skip
        named = own or named
    files: dict[str, Path] = {}
    for path, case in named.items():
        if not case:
            continue
        if case in files:
            raise EvaluationError(f"{path}: {files[case].name} lies beside it; keep one of the two {kind}s")
        files[case] = path
    return dict(sorted(files.items()))
