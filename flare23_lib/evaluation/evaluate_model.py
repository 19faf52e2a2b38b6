"""Stages: a model's predictions of the validation cases, scored; the paper's tables from the scores."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from flare23_lib.cache.results import REMEDY, Results, read_training
from flare23_lib.config.models import label_map
from flare23_lib.config.settings import EvaluationSettings, TablesSettings
from flare23_lib.dataset.cases import usable_cases
from flare23_lib.errors import EvaluationError, StoreError
from flare23_lib.evaluation.cases import Pair, Scoring
from flare23_lib.evaluation.evaluate import SUMMARY_FILE, evaluate_cases
from flare23_lib.evaluation.formats import write_formats
from flare23_lib.evaluation.paper_tables import Evaluated, make_tables
from flare23_lib.evaluation.tables import format_summary
from flare23_lib.io.tables import read_csv

log = logging.getLogger(__name__)


def evaluate(
    results: Results,
    model: str,
    settings: EvaluationSettings,
    output: Path,
    processes: int = 1,
    memory_mb: float | None = None,
) -> None:
    """Score a model on the validation cases that have labels.

    Args:
        results: the results folder.
        model: its name.
        settings: how they are scored.
        output: folder for the tables (`evaluate_cases`).
        processes: cases scored at once, at most.
        memory_mb: memory in MB that they may take together; None for no limit.

    Raises:
        EvaluationError: no validation case has a label.
        StoreError: a prediction is in no record, or is missing or damaged, which is no fault of the model.
        EvaluationError: a file cannot be read because of the disk or the network.
    """
    labels = label_map(settings.labels)
    collected = results.collected("predictions", model)
    files = {row["case"]: row["file"] for row in read_csv(collected)}
    labeled = [case for case in usable_cases(results.cases, "validation") if case.label]
    if not labeled:
        raise EvaluationError(f"no validation case has a label (see {results.cases}); {model} needs evaluate: false")
    for case in labeled:
        if case.case not in files:
            raise StoreError(f"{case.case} is not in {collected}; {REMEDY}")
        results.metadata(files[case.case])
    pairs = [Pair(case.case, Path(case.label), results.root / files[case.case]) for case in labeled]
    scoring = Scoring.from_settings(settings, labels, read_training(results, model)["labels_unseen"])
    scoring = replace(scoring, stored_predictions=True)
    evaluate_cases(pairs, scoring, output, processes, memory_mb)
    log.info("%s on %d validation cases\n%s", model, len(pairs), format_summary(output / SUMMARY_FILE))


def write_tables(results: Results, settings: TablesSettings, folder: Path) -> None:
    """Write the paper's tables from the evaluations of all models.

    Args:
        results: the results folder.
        settings: what the tables are made of.
        folder: where the tables go.
    """
    labels = label_map(settings.labels)
    models = [Evaluated.read(results.summary(name).parent, settings.measured) for name in settings.models]
    shapes = {
        case.case: "x".join(map(str, case.shape[::-1]))
        for case in usable_cases(results.cases, "validation")
        if case.shape
    }
    scoring = Scoring.from_settings(settings, labels)
    tables = make_tables(models, scoring, settings.compare, shapes)
    for path in folder.glob("table*.*"):  # what this configuration does not ask for is from earlier scores
        if path.stem not in tables:
            path.unlink()
    for table in tables.values():
        write_formats(folder, table)
        log.info("%s: %s", table.name, table.title)
