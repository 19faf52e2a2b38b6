"""Stages: a model's predictions of the validation cases, scored; the paper's tables from the scores."""

from __future__ import annotations

import logging
from pathlib import Path

from flare23_lib.cohort.table import usable_cases
from flare23_lib.config.models import label_map
from flare23_lib.config.settings import EvaluationSettings, TablesSettings
from flare23_lib.errors import EvaluationError, StoreError
from flare23_lib.evaluation.cases import OK, Pair, evaluate_cases
from flare23_lib.evaluation.folders import write_details
from flare23_lib.evaluation.formats import write_table
from flare23_lib.evaluation.paper_tables import Evaluated, make_tables
from flare23_lib.evaluation.tables import format_summary, write_metrics, write_summary
from flare23_lib.stages.results import Results, read_training
from flare23_lib.store import read_csv

log = logging.getLogger(__name__)


def evaluate(
    results: Results,
    model: str,
    settings: EvaluationSettings,
    processes: int,
    memory_mb: float | None,
    metrics: Path,
    summary: Path,
) -> None:
    """Score a model on the validation cases that have labels.

    Args:
        results: the results folder.
        model: its name.
        settings: how they are scored.
        processes: cases scored at once, at most.
        memory_mb: memory that they may take together; None for no limit.
        metrics: table with a row per case; with details, their tables are written beside it.
        summary: table with a row per class.

    Raises:
        EvaluationError: no validation case has a label.
        StoreError: a prediction is in no record, or gone or damaged, which is no fault of the model's.
    """
    labels = label_map(settings.labels)
    gathered = results.gathered("predictions", model)
    files = {row["case"]: row["file"] for row in read_csv(gathered)}
    labeled = [case for case in usable_cases(results.cases, "validation") if case.label]
    if not labeled:
        raise EvaluationError(f"no validation case has a label (see {results.cases}); {model} needs evaluate: false")
    for case in labeled:
        if case.case not in files:
            raise StoreError(f"{case.case} is not in {gathered}; run `flare23 store verify` and start again")
        results.measures(files[case.case])
    pairs = [Pair(case.case, Path(case.label), results.root / files[case.case]) for case in labeled]
    unseen = read_training(results, model)["labels_unseen"]
    rows, details = evaluate_cases(
        pairs, labels, settings.mode, unseen, processes, memory_mb, with_details=settings.details,
        partial_references=settings.references == "partial",
    )  # fmt: skip
    for row in rows:
        if row["status"] != OK:
            log.warning("%s: %s", row["Name"], row["status"])
    write_details(metrics.parent, details if settings.details else None, labels, unseen)
    write_metrics(metrics, rows, labels)
    write_summary(summary, rows, labels, unseen)
    log.info("%s on %d validation cases\n%s", model, len(pairs), format_summary(summary))


def write_tables(results: Results, settings: TablesSettings, folder: Path) -> None:
    """Write the paper's tables from the evaluations of all models.

    Args:
        results: the results folder.
        settings: what the tables are made of.
        folder: where the tables go.
    """
    labels = label_map(settings.labels)
    models = []
    for name in settings.models:
        own = results.root / "evaluation" / name
        efficiency = read_csv(own / "efficiency.csv") if settings.measured else []
        models.append(Evaluated(name, read_csv(own / "summary.csv"), read_csv(own / "metrics.csv"), efficiency))
    shapes = {
        case.case: "x".join(map(str, case.shape[::-1]))
        for case in usable_cases(results.cases, "validation")
        if case.shape
    }
    tables = make_tables(models, labels, settings.compare, shapes, settings.mode, settings.references)
    for path in folder.glob("table*.*"):  # what this configuration does not ask for is from earlier scores
        if path.stem not in tables:
            path.unlink()
    for table in tables.values():
        write_table(folder, table)
        log.info("%s: %s", table.name, table.title)
