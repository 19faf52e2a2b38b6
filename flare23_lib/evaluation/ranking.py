"""Ranking of result folders as FLARE23 does it: every metric of every case is ranked, and the ranks are averaged.

Which parts of this the challenge documents and which are our reading is said in docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib import store
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.statistics import number
from flare23_lib.labels import LabelMap

TIME_TOLERANCE = 15.0
"""Seconds of wall time up to which all are equally good."""

MEMORY_TOLERANCE = 4096.0
"""Peak of GPU memory in MB up to which all areas are equally good."""

_METRICS = "metrics.csv"
_EFFICIENCY = "efficiency.csv"
_GPU_COLUMNS = ("MaxGPU_Mem", "AUC_GPU_Time")


@dataclass(frozen=True)
class Ranking:
    """What came of ranking.

    Attributes:
        rows: a row per folder, the best first: `rank`, `folder`, `mean_rank`, per metric `{metric}_rank` (mean over
            cases) and `{metric}` (mean of the values).
        metrics: the metrics that were ranked.
        cases: number of cases.
        notes: in one line each, what was left out or counted as worst.
    """

    rows: list[dict[str, Any]]
    metrics: list[str]
    cases: int
    notes: list[str]


def rank_folders(folders: Sequence[Path], labels: LabelMap) -> Ranking:
    """Rank folders that each hold a metrics.csv and, if efficiency is to count, an efficiency.csv.

    Args:
        folders: at least two.
        labels: the structures; organs count by their mean in a case, tumors likewise.

    Raises:
        EvaluationError: fewer than two folders, one given twice, a table without the columns, or no case at all.
        StoreError: a folder without metrics.csv.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise EvaluationError("a ranking needs at least two folders")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise EvaluationError("a folder is given twice")
    notes: list[str] = []
    values = [_accuracy(folder / _METRICS, labels) for folder in folders]
    _add_efficiency(folders, values, notes)
    metrics = list(dict.fromkeys(name for table in values for case in table.values() for name in case))
    cases = sorted({case for table in values for case in table})
    if not cases:
        raise EvaluationError(f"{folders[0] / _METRICS}: holds no cases")
    for folder, table in zip(folders, values, strict=True):
        missing = [case for case in cases if case not in table]
        if missing:
            notes.append(f"{folder}: {len(missing)} cases are missing and count as worst: {_some(missing)}")
    cube = np.array(
        [[[table.get(case, {}).get(name, np.nan) for table in values] for name in metrics] for case in cases]
    )
    notes += _gaps(folders, metrics, cases, values, cube)
    ranks = np.apply_along_axis(_ranks, 2, cube * [[[_sign(name)] for name in metrics]])
    ranks[np.isnan(cube).all(axis=2)] = np.nan  # nobody has this value: nothing to rank
    ranked = ~np.isnan(ranks).all(axis=(0, 2))
    mean_ranks = np.nanmean(ranks[:, ranked], axis=0).mean(axis=0)  # a metric of few cases counts as any other
    table = []
    for place in np.argsort(mean_ranks, kind="stable"):
        row = {"rank": 1 + int((mean_ranks < mean_ranks[place] - 1e-12).sum()), "folder": str(folders[place])}
        row["mean_rank"] = round(float(mean_ranks[place]), 4)
        for index, name in enumerate(metrics):
            row[f"{name}_rank"] = _mean(ranks[:, index, place])
            row[name] = _mean(cube[:, index, place])
        table.append(row)
    return Ranking(table, metrics, len(cases), notes)


def _gaps(
    folders: Sequence[Path], metrics: Sequence[str], cases: Sequence[str], values: Sequence[dict], cube: np.ndarray
) -> list[str]:
    """Say where a folder has no value that another has, in cases that it has: that counts as worst."""
    notes = []
    empty = np.isnan(cube) & ~np.isnan(cube).all(axis=2, keepdims=True)
    for place, (folder, table) in enumerate(zip(folders, values, strict=True)):
        for index, name in enumerate(metrics):
            found = [case for case, gap in zip(cases, empty[:, index, place], strict=True) if gap and case in table]
            if found:
                notes.append(f"{folder}: {len(found)} cases have no {name}, which counts as worst: {_some(found)}")
    return notes


def _some(cases: Sequence[str]) -> str:
    return ", ".join(cases[:5]) + (", ..." if len(cases) > 5 else "")


def _accuracy(path: Path, labels: LabelMap) -> dict[str, dict[str, float]]:
    """Return per case the mean DSC and NSD of the organs and of the tumors; empty cells are left out of the means."""
    kinds = {kind: group for kind, group in (("organ", labels.organs), ("tumor", labels.tumors)) if group}
    table: dict[str, dict[str, float]] = {}
    for row in store.read_csv(path):
        name = _case(row, path)
        if name in table:
            raise EvaluationError(f"{path}: two rows are of the case {name}")
        case = table[name] = {}
        for kind, group in kinds.items():
            for measure in ("DSC", "NSD"):
                columns = [f"{label.name}_{measure}" for label in group]
                if absent := [column for column in columns if column not in row]:
                    raise EvaluationError(
                        f"{path}: has no column {absent[0]}; the labels of the configuration are meant"
                    )
                case[f"{kind}_{measure}"] = _mean([_number(path, row, column) for column in columns])
    return table


def _add_efficiency(folders: Sequence[Path], values: Sequence[dict], notes: list[str]) -> None:
    """Put time and GPU area into the cases' values, each only if all folders have it."""
    without = [folder for folder in folders if not (folder / _EFFICIENCY).exists()]
    if without:
        notes.append(f"time and GPU memory do not count: {without[0]} has no {_EFFICIENCY}")
        return
    tables = [store.read_csv(folder / _EFFICIENCY) for folder in folders]
    for folder, rows in zip(folders, tables, strict=True):
        if absent := {"Name", "Time", *_GPU_COLUMNS} - set(rows[0] if rows else ()):
            raise EvaluationError(f"{folder / _EFFICIENCY}: has no column {sorted(absent)[0]}, or no rows")
    blind = [
        folder
        for folder, rows in zip(folders, tables, strict=True)
        if any(_number(folder / _EFFICIENCY, row, name) is None for row in rows for name in _GPU_COLUMNS)
    ]
    if blind:
        notes.append(f"GPU memory does not count: {blind[0] / _EFFICIENCY} has none for some cases")
    for folder, rows, cases in zip(folders, tables, values, strict=True):
        path = folder / _EFFICIENCY
        if not any(_case(row, path) in cases for row in rows):
            notes.append(f"{path}: none of its {len(rows)} rows is named as a case of {_METRICS}")
        for row in rows:
            name = _case(row, path)
            if name not in cases:
                continue
            seconds = _number(path, row, "Time")
            if seconds is None:
                raise EvaluationError(f"{path}: {name} has no Time")
            cases[name]["time"] = max(TIME_TOLERANCE, seconds)
            if not blind:
                most, area = (_number(path, row, column) for column in _GPU_COLUMNS)
                cases[name]["gpu_area"] = 0.0 if most <= MEMORY_TOLERANCE else area


def _number(path: Path, row: Mapping[str, str], column: str) -> float | None:
    """Return the number in a table's cell, None for an empty one; EvaluationError if it holds something else."""
    try:
        return number(row[column])
    except ValueError as error:
        raise EvaluationError(f"{path}: {_case(row, path)}: {column} is {row[column]!r}, not a number") from error


def _case(row: Mapping[str, str], path: Path) -> str:
    """Return a row's case: the challenge's tables name files, such as `X_0000.nii.gz`."""
    if "Name" not in row:
        raise EvaluationError(f"{path}: has no column Name")
    return row["Name"].removesuffix(".gz").removesuffix(".nii").removesuffix("_0000")


def _sign(metric: str) -> float:
    """Return 1 where less is better, -1 where more is."""
    return 1.0 if metric in ("time", "gpu_area") else -1.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values, the least first: equal ones share the best of their ranks, NaN is behind all."""
    filled = np.where(np.isnan(values), np.inf, values)
    return 1.0 + (filled[None, :] < filled[:, None]).sum(axis=1)


def _mean(values: Sequence[float | None] | np.ndarray) -> float:
    """Return the mean of what is a number, NaN without any."""
    known = [value for value in values if value is not None and not np.isnan(value)]
    return round(float(np.mean(known)), 6) if known else float("nan")


def write_ranking(path: Path, ranking: Ranking) -> None:
    """Write the rows."""
    columns = ["rank", "folder", "mean_rank", *(c for name in ranking.metrics for c in (f"{name}_rank", name))]
    rows = [{key: None if value != value else value for key, value in row.items()} for row in ranking.rows]
    store.write_csv(path, columns, rows)


def format_ranking(ranking: Ranking) -> str:
    """Return the ranking for the terminal."""
    lines = [f"{'rank':>4}  {'mean rank':>9}  " + "".join(f"{name:>12}" for name in ranking.metrics) + "  folder"]
    for row in ranking.rows:
        means = "".join(f"{row[f'{name}_rank']:>12.2f}" for name in ranking.metrics)
        lines.append(f"{row['rank']:>4}  {row['mean_rank']:>9.3f}  {means}  {row['folder']}")
    lines.append(f"mean ranks over {ranking.cases} cases and {len(ranking.metrics)} metrics")
    return "\n".join([*lines, *ranking.notes])
