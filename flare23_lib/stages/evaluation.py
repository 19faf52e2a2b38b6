"""Stage: a model's predictions of the validation cases, scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare23_lib.cohort.table import usable_cases
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.tables import Pair, evaluate_cases, format_summary, write_metrics, write_summary
from flare23_lib.labels import LabelMap
from flare23_lib.stages.results import Results, read_training
from flare23_lib.store import read_csv

log = logging.getLogger(__name__)


def evaluate(
    results: Results, model: str, settings: Mapping[str, Any], processes: int, metrics: Path, summary: Path
) -> None:
    """Score a model on the validation cases that have labels.

    Args:
        results: the results folder.
        model: its name.
        settings: `Config.evaluation_settings`.
        processes: cases scored at once.
        metrics: table with a row per case.
        summary: table with a row per class.

    Raises:
        EvaluationError: no validation case has a label.
    """
    labels = LabelMap.from_config(settings["labels"])
    files = {row["case"]: results.root / row["file"] for row in read_csv(results.gathered("predictions", model))}
    labeled = [case for case in usable_cases(results.cases, "validation") if case.label]
    if not labeled:
        raise EvaluationError(f"no validation case has a label (see {results.cases}); {model} needs evaluate: false")
    pairs = [Pair(case.case, Path(case.label), files.get(case.case)) for case in labeled]
    unseen = read_training(results, model)["labels_unseen"]
    rows = evaluate_cases(pairs, labels, mode=settings["mode"], unseen=unseen, processes=processes, progress=True)
    write_metrics(metrics, rows, labels)
    write_summary(summary, rows, labels, unseen)
    log.info("%s on %d validation cases\n%s", model, len(pairs), format_summary(summary))
