"""Tables of scores: by case (metrics.csv), by class (summary.csv), and the comparison of two models.

Numbers are rounded where the official script rounds: each case's values to 4 decimals, the means of
these to 4 decimals, and the organ score is the mean of the rounded class means.

An interval is the percentile interval of Efron and Tibshirani, "An Introduction to the Bootstrap"
(1993), chapter 13: cases are drawn with replacement as often as there are cases, and the middle
95 % of the means of these draws are the interval. All classes are drawn together, case by case, so
that the interval of the organs' mean accounts for cases that are hard for all of them. The seed is
fixed: the same table gives the same interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from flare23_lib.errors import StoreError, listed
from flare23_lib.evaluation.cases import CaseScores
from flare23_lib.evaluation.metrics import METRICS
from flare23_lib.io.atomic import read_text, write_text
from flare23_lib.io.tables import ENCODING, check_columns
from flare23_lib.labels import LabelMap

ORGANS = "organs"
"""Name of the row with the mean of the organs' class means."""

UNSEEN = "not seen in training"
"""Note of a class that the model could not have learned."""

DECIMALS = 4
"""Decimals of scores in tables, as the official script rounds them."""

RESAMPLES = 10_000
SEED = 2023
INTERVAL = (0.025, 0.975)

_CHUNK = 1_000_000
"""Counts of cases that are drawn at once."""

_TEXT = ("Name", "status", "class", "kind", "note", "GPU", "GPU_Backend", "RAM_Backend", "file")
"""Columns that hold text, in all tables of the evaluation."""


def write_table(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table as CSV, atomically; its index is a column if it has a name."""
    is_indexed = table.index.name is not None
    write_text(path, table.to_csv(index=is_indexed, float_format=float_format, lineterminator="\n"))


def read_table(path: Path, as_text: bool = False) -> pd.DataFrame:
    """Read a CSV file of scores or of efficiency: empty cells are NaN, in columns of text "".

    With `as_text` any table is read, all of whose columns are text. StoreError if the file is missing, is not as its
    checksum says, or is not a table.
    """
    try:
        options = {"dtype": str} if as_text else {"dtype": dict.fromkeys(_TEXT, str), "na_values": [""]}
        table = pd.read_csv(StringIO(read_text(path, ENCODING)), keep_default_na=False, **options)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; `flare23 evaluate` or the workflow makes it") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # also those of pandas, and bytes that are not text
        raise StoreError(f"{path} is not a CSV table") from error
    check_columns(path, list(table.columns))
    return table if as_text else table.fillna(dict.fromkeys(_TEXT, ""))


def score_table(cases: Iterable[CaseScores], labels: LabelMap) -> pd.DataFrame:
    """Return a row per case: Name, the DSC of every label, the NSD of every label (the official order, then further
    metrics), status.

    Scores are not rounded; NaN stands for a cell that stays empty.
    """
    columns = ["Name", *(f"{name}_{metric}" for metric in METRICS for name in labels.names), "status"]
    rows = []
    for case in cases:
        scores = [case.scores[name][metric] for metric in METRICS for name in labels.names]
        rows.append([case.case, *scores, case.status])
    return pd.DataFrame(rows, columns=columns)


def summarize(table: pd.DataFrame, labels: LabelMap, unseen: Sequence[str] = ()) -> pd.DataFrame:
    """Summarize a table of scores: a row per class and, if there are organs, the row `organs`.

    Means, standard deviations (of the population, over all cases) and medians are those of the
    rounded values; `low` and `high` are the 95 % interval of the mean. Empty cells and unseen
    classes do not count. A class without any number has NaN. The organs' mean is that of the organs
    that have one; a note tells if some have none.
    """
    organs = [label.name for label in labels.organs]
    kinds = {label.name: label.kind for label in labels.labels}
    summary = pd.DataFrame(
        {"kind": kinds, "note": {name: UNSEEN if name in unseen else "" for name in kinds}},
        index=pd.Index(kinds, name="class"),
    )
    if organs:
        summary.loc[ORGANS] = [ORGANS, ""]
    for metric in METRICS:
        scores = _class_scores(table, labels, metric)
        scores[list(unseen)] = np.nan
        summary["cases"] = scores.count()
        summary[f"{metric}_mean"] = _class_means(scores, organs)
        summary[f"{metric}_std"] = scores.std(ddof=0)
        summary[f"{metric}_median"] = scores.median()
        summary[[f"{metric}_low", f"{metric}_high"]] = mean_intervals(scores, organs)
    if organs:
        scored = int((summary.loc[organs, "cases"] > 0).sum())
        if scored < len(organs):
            summary.loc[ORGANS, "note"] = f"mean of {scored} of {len(organs)} organs"
        summary.loc[ORGANS, "cases"] = summary.loc[organs, "cases"].max()
    columns = ["kind", "cases"]
    columns += [f"{metric}_{statistic}" for metric in METRICS for statistic in ("mean", "std", "median")]
    columns += ["note", *(f"{metric}_{end}" for metric in METRICS for end in ("low", "high"))]
    return summary.astype({"cases": int})[columns].round(DECIMALS)


def compare(first: pd.DataFrame, second: pd.DataFrame, labels: LabelMap) -> pd.DataFrame:
    """Compare the metrics.csv of two models case by case, where both have a number.

    Returns:
        A row per class and, if there are organs, the row `ORGANS`: cases and, per metric, both
        means (`first`, `second`), their difference (first minus second) and its 95 % interval
        (`low`, `high`); NaN where nothing can be compared.
    """
    organs = [label.name for label in labels.organs]
    first, second = first.set_index("Name"), second.set_index("Name")
    shared = [name for name in first.index if name in second.index]
    table = pd.DataFrame(index=pd.Index([*labels.names, *([ORGANS] if organs else [])], name="class"))
    for metric in METRICS:
        one, other = (_class_scores(model.loc[shared], labels, metric) for model in (first, second))
        both = one.notna() & other.notna()
        one, other = one.where(both), other.where(both)
        cases = both.sum()
        if organs:
            cases[ORGANS] = both[organs].any(axis=1).sum()
        table["cases"] = cases
        table[f"{metric}_first"], table[f"{metric}_second"] = (_class_means(side, organs) for side in (one, other))
        table[f"{metric}_difference"] = table[f"{metric}_first"] - table[f"{metric}_second"]
        table[[f"{metric}_low", f"{metric}_high"]] = mean_intervals(one - other, organs)
    return table.round(DECIMALS)


def _class_scores(table: pd.DataFrame, labels: LabelMap, metric: str) -> pd.DataFrame:
    """Return the rounded scores of one metric: a row per case, a column per class."""
    scores = table[[f"{name}_{metric}" for name in labels.names]].set_axis(labels.names, axis=1)
    return scores.astype(float).round(DECIMALS)


def _class_means(scores: pd.DataFrame, organs: Sequence[str]) -> pd.Series:
    """Return the rounded mean of each class, and under `ORGANS` that of the organs' means; NaN without a number."""
    means = scores.apply(mean).round(DECIMALS)
    if organs:
        means[ORGANS] = mean(means[organs])
    return means


def mean(values: pd.Series) -> float:
    """Return the mean without empty cells, NaN without any: NumPy's, as in the official script.

    Sums of pandas differ from it in the last bit, which decides how ties are rounded.
    """
    known = values.dropna().to_numpy()
    return float(np.mean(known)) if len(known) else np.nan


def mean_intervals(scores: pd.DataFrame, organs: Sequence[str]) -> pd.DataFrame:
    """Return the 95 % interval (`low`, `high`) of the mean of each column, and under `ORGANS` of the organs' mean.

    It is NaN where fewer than two cases have a number, for the organs where that holds for one of
    those that have any.
    """
    cases = scores.count()
    means = _resampled_means(scores)
    if organs:
        scored = [name for name in organs if cases[name]]
        means[ORGANS] = means[scored].mean(axis=1, skipna=False)  # another draw is of fewer organs
        cases[ORGANS] = cases[scored].min() if scored else 0
    intervals = means.quantile(INTERVAL).T.set_axis(["low", "high"], axis=1)
    return intervals.where(cases >= 2)


def _resampled_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the class means of all resamples, (RESAMPLES, classes); NaN where no drawn case has a number."""
    cases = max(len(scores), 1)
    known, values = scores.notna().to_numpy(float), scores.fillna(0.0).to_numpy()
    generator = np.random.default_rng(SEED)
    chunk = max(1, _CHUNK // cases)
    means = []
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        times = generator.multinomial(cases, np.full(cases, 1 / cases), size=size)[:, : len(scores)].astype(float)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            means.append((times @ values) / (times @ known))
    return pd.DataFrame(np.concatenate(means), columns=scores.columns)


def format_summary(path: Path) -> str:
    """Return a summary.csv as a table for the terminal: organs, their mean, the other kinds.

    StoreError if it lacks columns, or as `read_table`.
    """
    summary = read_table(path)
    means = [f"{metric}_mean" for metric in METRICS]
    if missing := [name for name in ("class", "kind", "cases", "note", *means) if name not in summary]:
        raise StoreError(f"{path}: lacks columns ({listed(missing)}); make it again")
    summary = summary.set_index("class").rename({ORGANS: "organs, mean"})
    order = {"organ": 0, ORGANS: 1}
    summary = summary.sort_values("kind", key=lambda kinds: kinds.map(order).fillna(2), kind="stable")
    width = max(map(len, ["class", *summary.index]))
    head = "  ".join([f"{'class':{width}}", *(f"{metric:>6}" for metric in METRICS), "cases"])
    lines = [head, "-" * len(head)]
    for name, row in summary.iterrows():
        shown = ["     -" if np.isnan(row[mean]) else f"{row[mean]:.{DECIMALS}f}" for mean in means]
        lines.append("  ".join([f"{name:{width}}", *shown, f"{row['cases']:>5}", row["note"]]).rstrip())
    return "\n".join(lines)
