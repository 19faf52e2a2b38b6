"""Tables of scores: a row per case (metrics.csv) and a row per class (summary.csv).

Numbers are rounded where the official script rounds: each case's values to 4 decimals, the means of these to 4
decimals, and the organ score is the mean of the rounded class means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from flare23_lib.errors import StoreError
from flare23_lib.evaluation.cases import CaseScores
from flare23_lib.evaluation.statistics import (
    DECIMALS,
    METRICS,
    ORGANS,
    class_means,
    class_scores,
    mean_intervals,
    organ_names,
    score_columns,
)
from flare23_lib.io.atomic import atomic_path
from flare23_lib.io.tables import ENCODING, check_columns
from flare23_lib.labels import LabelMap

UNSEEN = "not seen in training"
"""Note of a class that the model could not have learned."""

_TEXT = ("Name", "status", "class", "kind", "note", "GPU", "GPU_Backend", "RAM_Backend", "file")
"""Columns that hold text, in all tables of the evaluation."""

_SUMMARY_COLUMNS = [
    "kind",
    "cases",
    *(f"{metric}_{statistic}" for metric in METRICS for statistic in ("mean", "std", "median")),
    "note",
    *(f"{metric}_{end}" for metric in METRICS for end in ("low", "high")),
]


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, atomically and without its index."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file of scores or of efficiency: empty cells are NaN, in columns of text "".

    Raises:
        StoreError: the file is missing, or it is not a table.
    """
    try:
        options = {"keep_default_na": False, "na_values": [""], "encoding": ENCODING}
        table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), **options)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; make it with the workflow first") from error
    except ValueError as error:  # also those of pandas, and bytes that are no text
        raise StoreError(f"{path} is not a CSV table") from error
    check_columns(path, list(table.columns))
    return table.fillna(dict.fromkeys(_TEXT, ""))


def score_table(cases: Iterable[CaseScores], labels: LabelMap) -> pd.DataFrame:
    """Return a row per case: Name, the DSC of every label, the NSD of every label (the official order), status.

    Scores are not rounded; NaN stands for a cell that stays empty.
    """
    rows = []
    for case in cases:
        scores = [getattr(case.scores[name], metric.lower()) for metric in METRICS for name in labels.names]
        rows.append([case.case, *scores, case.status])
    return pd.DataFrame(rows, columns=["Name", *score_columns(labels), "status"])


def write_metrics(path: Path, table: pd.DataFrame) -> None:
    """Write a table of scores (`score_table`), rounded."""
    write_table(path, table.round(DECIMALS))


def summarize(table: pd.DataFrame, labels: LabelMap, unseen: Sequence[str] = ()) -> pd.DataFrame:
    """Return a summary: a row per class and, if there are organs, the row `organs`; the index is the class.

    Means, standard deviations (of the population, over all cases) and medians are those of the rounded values
    that `write_metrics` writes; `low` and `high` are the 95 % interval of the mean (see `statistics`). Cases whose
    cell is empty do not count. A class without any number has NaN. The organs' mean is that of the organs that have
    one; the note says so if some have none.

    Args:
        table: a row per case (`score_table`).
        labels: the structures.
        unseen: names of classes that the model never saw in training; their scores do not count.
    """
    organs = organ_names(labels)
    summary = pd.DataFrame(
        {
            "kind": [label.kind for label in labels.labels],
            "note": [UNSEEN if name in unseen else "" for name in labels.names],
        },
        index=pd.Index(labels.names, name="class"),
    )
    if organs:
        summary.loc[ORGANS] = [ORGANS, ""]
    for metric in METRICS:
        scores = class_scores(table, labels, metric)
        scores[list(unseen)] = np.nan
        summary["cases"] = scores.count()
        summary[f"{metric}_mean"] = class_means(scores, organs)
        summary[f"{metric}_std"] = scores.std(ddof=0)
        summary[f"{metric}_median"] = scores.median()
        intervals = mean_intervals(scores, organs)
        summary[[f"{metric}_low", f"{metric}_high"]] = intervals
    if organs:
        means = int(summary.loc[organs, f"{METRICS[0]}_mean"].count())
        if means < len(organs):
            summary.loc[ORGANS, "note"] = f"mean of {means} of {len(organs)} organs"
        summary.loc[ORGANS, "cases"] = summary.loc[organs, "cases"].max()
    return summary.astype({"cases": int})[_SUMMARY_COLUMNS].round(DECIMALS)


def write_summary(path: Path, summary: pd.DataFrame) -> None:
    """Write what `summarize` returns."""
    write_table(path, summary.reset_index())


def format_summary(path: Path) -> str:
    """Return a summary.csv as a table for the terminal: organs, their mean, the other kinds."""
    summary = read_table(path).set_index("class")
    order = {"organ": 0, ORGANS: 1}
    summary = summary.sort_values("kind", key=lambda kinds: kinds.map(order).fillna(2), kind="stable")
    names = ["organs, mean" if name == ORGANS else name for name in summary.index]
    width = max(map(len, ["class", *names]))
    head = "  ".join([f"{'class':{width}}", *(f"{metric:>6}" for metric in METRICS), "cases"])
    lines = [head, "-" * len(head)]
    for name, (_, row) in zip(names, summary.iterrows(), strict=True):
        means = [row[f"{metric}_mean"] for metric in METRICS]
        shown = ["     -" if np.isnan(mean) else f"{mean:.{DECIMALS}f}" for mean in means]
        lines.append("  ".join([f"{name:{width}}", *shown, f"{row['cases']:>5}", row["note"]]).rstrip())
    return "\n".join(lines)
