"""Means over cases and how sure they are: bootstrap intervals, and the paired difference of two models.

An interval is the percentile interval of Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13:
cases are drawn with replacement as often as there are cases, and the middle 95 % of the means of these draws are the
interval. All classes are drawn together, case by case, so that the interval of the organs' mean heeds that a hard
case is hard for all of them. The seed is fixed: the same table gives the same interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flare23_lib.labels import LabelMap

MEASURES = ("DSC", "NSD")

DECIMALS = 4
"""Decimals of scores in tables, as the official script rounds them."""

RESAMPLES = 10_000
SEED = 2023
PERCENTILES = (2.5, 97.5)
"""Ends of the 95 % interval."""

_CHUNK = 1_000_000
"""Counts of cases that are drawn at once."""


def number(cell: Any) -> float | None:
    """Return the number in a table's cell, None for an empty cell or NaN."""
    if cell is None or cell == "" or np.isnan(float(cell)):
        return None
    return float(cell)


def score_matrix(rows: Sequence[Mapping[str, Any]], labels: LabelMap, measure: str) -> np.ndarray:
    """Return the scores of cases rounded as tables hold them: (cases, labels) float64, NaN for an empty cell."""
    cells = [[number(row[f"{name}_{measure}"]) for name in labels.names] for row in rows]
    values = np.array([[np.nan if cell is None else cell for cell in row] for row in cells], dtype=np.float64)
    return np.round(values.reshape(len(rows), len(labels.names)), DECIMALS)


def organ_columns(labels: LabelMap) -> list[int]:
    """Return the columns of a score matrix that are organs."""
    return [index for index, label in enumerate(labels.labels) if label.kind == "organ"]


def _drawn_means(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the column means of all resamples in chunks: (resamples, columns), NaN where no case has a number."""
    cases = len(values)
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    generator = np.random.default_rng(SEED)
    chunk = max(1, _CHUNK // cases)
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        times = generator.multinomial(cases, np.full(cases, 1 / cases), size=size).astype(np.float64)
        counts = times @ known
        yield np.divide(times @ filled, counts, out=np.full_like(counts, np.nan), where=counts > 0)


def mean_intervals(values: np.ndarray, organs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % intervals of the mean of each column, and of the mean of the organs' means.

    Args:
        values: (cases, columns), NaN where a case has no number.
        organs: the columns that are organs.

    Returns:
        (columns, 2) and (2,): low and high; NaN where fewer than two cases have a number, for the organs where that
        is so for one of those that have any.
    """
    intervals = np.full((values.shape[1] + 1, 2), np.nan)
    known = (~np.isnan(values)).sum(axis=0)
    enough = known >= 2
    if enough.any():
        means = np.concatenate(list(_drawn_means(values[:, enough])))
        intervals[:-1][enough] = np.nanpercentile(means, PERCENTILES, axis=0).T
        places = np.flatnonzero(enough)
        chosen = [place for place, column in enumerate(places) if column in set(organs)]
        there = sum(known[column] > 0 for column in organs)
        if chosen and len(chosen) == there:  # else the mean is one of more organs
            intervals[-1] = np.nanpercentile(_row_means(means[:, chosen]), PERCENTILES)
    return intervals[:-1], intervals[-1]


def _row_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row over what is known (a row without any is NaN)."""
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def column_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each column over what is known, NaN for a column without a number."""
    return _row_means(values.T)


COMPARISON_COLUMNS = (
    "class",
    "kind",
    "cases",
    *(f"{measure}_{what}" for measure in MEASURES for what in ("first", "second", "difference", "low", "high")),
)


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], labels: LabelMap, organs_name: str
) -> list[dict[str, Any]]:
    """Compare two models case by case.

    Only cases and classes that both have a number for are compared, so both means are over the same cases.

    Args:
        first: rows of one model (numbers, or a metrics.csv as read).
        second: rows of the other.
        labels: the structures.
        organs_name: class name of the row with the organs' mean.

    Returns:
        A row per class, then that of the organs: both means, the difference (first minus second) and its 95 %
        interval; None where nothing can be compared.
    """
    of_second = {row["Name"]: row for row in second}
    pairs = [(row, of_second[row["Name"]]) for row in first if row["Name"] in of_second]
    table = [{"class": label.name, "kind": label.kind} for label in labels.labels]
    organs = organ_columns(labels)
    table += [{"class": organs_name, "kind": organs_name}] if organs else []
    for measure in MEASURES:
        a, b = (score_matrix([pair[side] for pair in pairs], labels, measure) for side in (0, 1))
        missing = np.isnan(a) | np.isnan(b)
        a[missing] = b[missing] = np.nan
        _fill(table, measure, a, b, organs)
        for row, cases in zip(table, (~missing).sum(axis=0), strict=False):
            row["cases"] = int(cases)
        if organs:
            table[-1]["cases"] = int((~missing[:, organs]).any(axis=1).sum())
    return [{column: row.get(column) for column in COMPARISON_COLUMNS} for row in table]


def _fill(table: list[dict[str, Any]], measure: str, a: np.ndarray, b: np.ndarray, organs: Sequence[int]) -> None:
    """Put one measure's means, differences and intervals into the rows of the classes and of the organs."""
    intervals, organ_interval = mean_intervals(a - b, organs)
    # rounded before the organs' mean is taken, as in a summary
    means = np.round(np.stack([column_means(a), column_means(b)], axis=1), DECIMALS)
    ends = np.vstack([intervals, organ_interval])
    means = np.vstack([means, column_means(means[list(organs)]) if organs else np.full(2, np.nan)])
    for row, (mean_a, mean_b), (low, high) in zip(table, means, ends, strict=False):
        values = {"first": mean_a, "second": mean_b, "difference": mean_a - mean_b, "low": low, "high": high}
        row |= {f"{measure}_{what}": rounded(value) for what, value in values.items()}


def rounded(value: Any) -> float | None:
    """Return a number rounded for a table, None for an empty cell or NaN."""
    value = number(value)
    return None if value is None else float(np.round(value, DECIMALS))
