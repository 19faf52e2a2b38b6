"""Means over cases with their uncertainty: bootstrap intervals, and the paired difference of two models.

An interval is the percentile interval of Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13:
cases are drawn with replacement as often as there are cases, and the middle 95 % of the means of these draws are the
interval. All classes are drawn together, case by case, so that the interval of the organs' mean accounts for cases
that are hard for all of them. The seed is fixed: the same table gives the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from flare23_lib.labels import LabelMap

METRICS = ("DSC", "NSD")
"""The scores of a class: a field of `metrics.Score` in small letters, and columns of the tables."""

ORGANS = "organs"
"""Name of the row with the mean of the organs' class means."""

DECIMALS = 4
"""Decimals of scores in tables, as the official script rounds them."""

RESAMPLES = 10_000
SEED = 2023
INTERVAL = (0.025, 0.975)
"""Ends of the 95 % interval."""

_CHUNK = 1_000_000
"""Counts of cases that are drawn at once."""


def score_columns(labels: LabelMap) -> list[str]:
    """Return the columns of scores in metrics.csv, in its order."""
    return [f"{name}_{metric}" for metric in METRICS for name in labels.names]


def organ_names(labels: LabelMap) -> list[str]:
    """Return the names of the labels that are organs."""
    return [label.name for label in labels.organs]


def class_scores(table: pd.DataFrame, labels: LabelMap, metric: str) -> pd.DataFrame:
    """Return the scores of one metric, rounded as tables hold them: a row per case, a column per class.

    Args:
        table: with the columns of metrics.csv, numbers or NaN.
        labels: the structures.
        metric: one of `METRICS`.
    """
    scores = table[[f"{name}_{metric}" for name in labels.names]].set_axis(labels.names, axis=1)
    return scores.astype(float).round(DECIMALS)


def class_means(scores: pd.DataFrame, organs: Sequence[str]) -> pd.Series:
    """Return the mean of each class, rounded, and under `ORGANS` that of the organs' means; NaN without a number."""
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
    """Return the 95 % intervals of the mean of each class, and under `ORGANS` of the mean of the organs' means.

    Args:
        scores: a row per case, a column per class, NaN where a case has no number.
        organs: the columns that are organs.

    Returns:
        A row per class with `low` and `high`: NaN where fewer than two cases have a number, for the organs where
        that holds for one of those that have any.
    """
    cases = scores.count()
    means = _resampled_means(scores)
    if organs:
        scored = [name for name in organs if cases[name]]
        means[ORGANS] = means[scored].mean(axis=1)
        cases[ORGANS] = cases[scored].min() if scored else 0
    intervals = means.quantile(INTERVAL).T.set_axis(["low", "high"], axis=1)
    return intervals.where(cases >= 2)


def _resampled_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the class means of all resamples, (RESAMPLES, classes); NaN where no drawn case has a number."""
    cases = max(len(scores), 1)
    known = scores.notna().to_numpy(float)
    values = scores.fillna(0.0).to_numpy()
    generator = np.random.default_rng(SEED)
    chunk = max(1, _CHUNK // cases)
    means = []
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        times = generator.multinomial(cases, np.full(cases, 1 / cases), size=size)[:, : len(scores)].astype(float)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            means.append((times @ values) / (times @ known))
    return pd.DataFrame(np.concatenate(means), columns=scores.columns)


def compare(first: pd.DataFrame, second: pd.DataFrame, labels: LabelMap) -> pd.DataFrame:
    """Compare two models case by case.

    Only cases and classes that both have a number for are compared, so both means are over the same cases.

    Args:
        first: a row per case (metrics.csv) of one model.
        second: of the other.
        labels: the structures.

    Returns:
        A row per class and, if there are organs, the row `ORGANS`: cases and, per metric, both means (`first`,
        `second`), their difference (first minus second) and its 95 % interval (`low`, `high`); NaN where nothing can
        be compared.
    """
    organs = organ_names(labels)
    first, second = first.set_index("Name"), second.set_index("Name")
    shared = [name for name in first.index if name in second.index]
    table = pd.DataFrame(index=pd.Index([*labels.names, *([ORGANS] if organs else [])], name="class"))
    for metric in METRICS:
        one, other = (class_scores(model.loc[shared], labels, metric) for model in (first, second))
        both = one.notna() & other.notna()
        one, other = one.where(both), other.where(both)
        cases = both.sum()
        if organs:
            cases[ORGANS] = both[organs].any(axis=1).sum()
        table["cases"] = cases
        table[f"{metric}_first"], table[f"{metric}_second"] = (class_means(side, organs) for side in (one, other))
        table[f"{metric}_difference"] = table[f"{metric}_first"] - table[f"{metric}_second"]
        table[[f"{metric}_low", f"{metric}_high"]] = mean_intervals(one - other, organs)
    return table.round(DECIMALS)
