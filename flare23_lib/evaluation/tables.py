"""Tables of scores: a row per case (metrics.csv) and a row per class (summary.csv).

Numbers are rounded where the official script rounds: each case's values to 4 decimals, the means of these to 4
decimals, and the organ score is the mean of the rounded class means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib import store
from flare23_lib.evaluation.statistics import (
    DECIMALS,
    MEASURES,
    mean_intervals,
    number,
    organ_columns,
    rounded,
    score_matrix,
)
from flare23_lib.labels import LabelMap

ORGANS = "organs"
"""Name of the summary's row with the mean of the organs' class means."""

UNSEEN = "not seen in training"
"""Note of a class that the model could not have learned."""

_SUMMARY_COLUMNS = (
    "class",
    "kind",
    "cases",
    *(f"{measure}_{statistic}" for measure in MEASURES for statistic in ("mean", "std", "median")),
    "note",
    *(f"{measure}_{end}" for measure in MEASURES for end in ("low", "high")),
)


def write_metrics(path: str | Path, rows: Sequence[Mapping[str, Any]], labels: LabelMap) -> None:
    """Write a row per case: Name, the DSC of every label, the NSD of every label (the official order), status."""
    scores = [f"{name}_{measure}" for measure in MEASURES for name in labels.names]
    store.write_csv(
        path,
        ["Name", *scores, "status"],
        (
            {"Name": row["Name"], **{key: rounded(row[key]) for key in scores}, "status": row["status"]}
            for row in rows
        ),
    )


def summarize(
    rows: Sequence[Mapping[str, Any]], labels: LabelMap, unseen: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return a summary row per class, then the row `organs`.

    Means, standard deviations (of the population, over all cases) and medians are those of the rounded values
    that `write_metrics` writes; `low` and `high` are the 95 % interval of the mean (see `statistics`). Cases whose
    cell is empty do not count. A class without any number has empty cells. The organs' mean is that of the organs
    that have one; the note says so if some have none.
    """
    hidden = [index for index, name in enumerate(labels.names) if name in unseen]
    summary: list[dict[str, Any]] = [{"class": label.name, "kind": label.kind} for label in labels.labels]
    for row in summary:
        row["note"] = UNSEEN if row["class"] in unseen else ""
    organs = organ_columns(labels)
    organ_row: dict[str, Any] = {"class": ORGANS, "kind": ORGANS}
    for measure in MEASURES:
        values = score_matrix(rows, labels, measure)
        values[:, hidden] = np.nan
        intervals, organ_interval = mean_intervals(values, organs)
        for row, column, ends in zip(summary, values.T, intervals, strict=True):
            column = column[~np.isnan(column)]
            row["cases"] = len(column)
            for statistic in ("mean", "std", "median"):
                row[f"{measure}_{statistic}"] = rounded(getattr(np, statistic)(column)) if len(column) else None
            row[f"{measure}_low"], row[f"{measure}_high"] = map(rounded, ends)
        means = [mean for index in organs if (mean := summary[index][f"{measure}_mean"]) is not None]
        organ_row[f"{measure}_mean"] = rounded(np.mean(means)) if means else None
        organ_row[f"{measure}_low"], organ_row[f"{measure}_high"] = map(rounded, organ_interval)
        organ_row["note"] = "" if len(means) == len(organs) else f"mean of {len(means)} of {len(organs)} organs"
    if organs:
        organ_row["cases"] = max(summary[index]["cases"] for index in organs)
        summary.append(organ_row)
    return [{column: row.get(column) for column in _SUMMARY_COLUMNS} for row in summary]


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
        means = [number(row[f"{measure}_mean"]) for measure in MEASURES]
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
