"""The comparison of two folders: references and predictions of the same names."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flare23_lib import store
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.cases import OK, Pair, evaluate_cases
from flare23_lib.evaluation.details import (
    DETECTION_COLUMNS,
    DISTANCE_COLUMNS,
    TUMOR_COLUMNS,
    Details,
    detection,
)
from flare23_lib.evaluation.tables import write_metrics, write_summary
from flare23_lib.images import SUFFIXES, stem
from flare23_lib.labels import LabelMap

log = logging.getLogger(__name__)

DETAIL_TABLES = ("distances.csv", "tumors.csv", "detection.csv")
"""What `write_details` writes; the last two where there are tumors."""


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


def evaluate_folders(
    predictions: str | Path,
    references: str | Path,
    output: str | Path,
    labels: LabelMap,
    mode: str = "flare23",
    processes: int = 1,
    memory_mb: float | None = None,
    unseen: Collection[str] = (),
    with_details: bool = False,
    partial_references: bool = False,
    reference_suffix: str | None = None,
) -> Report:
    """Score every reference against the prediction of the same name and write metrics.csv and summary.csv.

    Args:
        predictions: folder with X.nii.gz or X.nii.
        references: folder with X.nii.gz or X.nii, or with X and `reference_suffix`.
        output: folder for the tables; made if missing.
        labels: the structures.
        mode: see `metrics.MODES`.
        processes: how many cases are scored at a time, at most.
        memory_mb: as `evaluate_cases`.
        unseen: names of classes that the model never saw in training.
        with_details: write the tables of `write_details` too.
        partial_references: as `evaluate_cases`.
        reference_suffix: what follows a case's name in its reference's file name, such as `_seg.nii.gz`; where no
            file ends so, or for None, `.nii.gz` or `.nii`.

    Raises:
        EvaluationError: a folder is missing, no reference is there, no prediction has the name of one, or as
            `evaluate_cases`.
        ConfigError: `unseen` names a label that is not in the map.
    """
    found = _files(Path(predictions), "prediction")
    truth = _files(Path(references), "reference", reference_suffix)
    if not truth:
        raise EvaluationError(f"{references}: holds no references (*{' or *'.join(SUFFIXES)})")
    if found and not set(found) & set(truth):
        one, other = (next(iter(files.values())).name for files in (found, truth))
        raise EvaluationError(
            f"{predictions}: no prediction has the name of a reference ({one} here, {other} in {references}); "
            "the configuration's layout.label_suffix says what follows a name in a reference's"
        )
    pairs = [Pair(case, path, found.get(case)) for case, path in truth.items()]
    rows, details = evaluate_cases(
        pairs, labels, mode, unseen, processes, memory_mb, with_details, partial_references
    )
    extra = [path.name for case, path in found.items() if case not in truth]
    faults = [f"{row['Name']}: {row['status']}" for row in rows if row["status"] != OK]
    faults += [f"{name}: has no reference and was left out" for name in extra]
    for fault in faults:
        log.warning(fault)
    output = Path(output)
    write_metrics(output / "metrics.csv", rows, labels)
    write_summary(output / "summary.csv", rows, labels, unseen)
    write_details(output, details if with_details else None, labels, unseen)
    return Report(
        cases=len(rows),
        scored=sum(row["status"] == OK for row in rows),
        missing=[pair.case for pair in pairs if pair.prediction is None],
        extra=extra,
        faults=faults,
        metrics=output / "metrics.csv",
        summary=output / "summary.csv",
    )


def detail_tables(labels: LabelMap) -> list[str]:
    """Return the names of the tables that `write_details` writes."""
    return list(DETAIL_TABLES) if labels.tumors else list(DETAIL_TABLES[:1])


def write_details(
    folder: Path, details: list[Details] | None, labels: LabelMap, unseen: Collection[str] = ()
) -> None:
    """Write distances.csv (a row per case and class) and, if there are tumor labels, tumors.csv and detection.csv.

    Classes that the model never saw in training (`unseen`) are left out. Tables of an earlier evaluation that are not
    written now are removed: they would stay beside other scores. For details of None that is all of them.
    """
    written = [] if details is None else detail_tables(labels)
    for name in DETAIL_TABLES:
        if name not in written:
            (folder / name).unlink(missing_ok=True)
    if details is None:
        return
    seen = LabelMap(tuple(label for label in labels.labels if label.name not in unseen))
    distances = [row for case in details for row in case.distances if row["class"] in seen.names]
    store.write_csv(folder / "distances.csv", DISTANCE_COLUMNS, distances)
    if labels.tumors:
        tumors = [row for case in details for row in case.tumors if row["class"] in seen.names]
        store.write_csv(folder / "tumors.csv", TUMOR_COLUMNS, tumors)
        store.write_csv(folder / "detection.csv", DETECTION_COLUMNS, detection(tumors, seen))


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
