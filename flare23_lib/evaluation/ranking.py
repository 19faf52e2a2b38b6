"""Ranking of result folders as in FLARE23: every metric of every case is ranked, and the ranks are averaged.

docs/evaluation.md lists which parts of this the challenge documents and which are our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flare23_lib.errors import EvaluationError, listed
from flare23_lib.evaluation.metrics import METRICS
from flare23_lib.evaluation.tables import mean, read_table
from flare23_lib.labels import LabelMap

TIME_TOLERANCE = 15.0
"""Seconds of wall time up to which all are equally good."""

MEMORY_TOLERANCE = 4096.0
"""Peak of GPU memory in MB up to which all areas are equally good."""


@dataclass(frozen=True)
class Ranking:
    """The ranked metrics, the number of cases, and notes on what was left out or counted as worst.

    The table has a row per folder, the best first: `rank`, `folder`, `mean_rank`, per metric
    `{metric}_rank` (mean over cases) and `{metric}` (mean of the values); NaN for no value.
    """

    table: pd.DataFrame
    metrics: list[str]
    cases: int
    notes: list[str]


def rank_folders(folders: Sequence[Path], labels: LabelMap) -> Ranking:
    """Rank folders that each hold a metrics.csv and, if efficiency is to count, an efficiency.csv.

    Organs count by their mean in a case, tumors likewise; where a folder lacks classes there, by that of the classes
    that all folders have.

    Raises:
        EvaluationError: fewer than two folders, one given twice, a table without the columns, no case, or no score.
        StoreError: a folder without metrics.csv.
    """
    if len(folders) < 2:
        raise EvaluationError("a ranking needs at least two folders")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise EvaluationError("a folder is given twice")
    accuracy, unequal = _accuracy([folder / "metrics.csv" for folder in folders], labels)
    efficiency, notes = _efficiency(folders, accuracy)
    if unequal:
        notes.append(
            f"in {unequal} cases scores are means of the classes that all folders have there, or of different ones "
            "if there is none"
        )
    tables = [table.join(other) for table, other in zip(accuracy, efficiency, strict=True)]
    known = pd.concat(tables, keys=map(str, folders), names=["folder", "case"])
    cases = sorted(known.index.unique("case"))
    if not cases:
        raise EvaluationError(f"{folders[0] / 'metrics.csv'}: holds no cases")
    values = known.reindex(pd.MultiIndex.from_product([map(str, folders), cases], names=known.index.names))
    # a value that no folder has is not ranked; one that a folder alone lacks is behind all
    ranked = values.groupby("case").transform("count") > 0
    if not ranked.any(axis=None):
        raise EvaluationError("no folder has a score of any case")
    signs = [
        -1 if (metric := METRICS.get(name.partition("_")[2])) and metric.higher_is_better else 1 for name in values
    ]
    ranks = (values * signs).groupby("case").rank(method="min", na_option="bottom").where(ranked)
    notes += _gaps(values, known.index, ranked)
    means, ranks = (table.groupby("folder", sort=False).agg(mean) for table in (values, ranks))
    mean_rank = ranks.mean(axis=1)  # a metric of few cases counts as any other
    table = pd.DataFrame({"rank": mean_rank.round(12).rank(method="min").astype(int), "folder": means.index})
    table["mean_rank"] = mean_rank.round(4)
    for name in values:
        table[f"{name}_rank"], table[name] = (column[name].map(_rounded) for column in (ranks, means))
    table = table.sort_values("rank", kind="stable").reset_index(drop=True)
    return Ranking(table, list(values), len(cases), notes)


def _rounded(value: float) -> float:
    return round(value, 6)  # pandas rounds some ties otherwise


def _gaps(values: pd.DataFrame, known: pd.MultiIndex, ranked: pd.DataFrame) -> list[str]:
    """Return a line per folder without a case, or without a value in a case, that another has: it counts as worst."""
    notes, more = [], []
    for folder, table in values.groupby("folder", sort=False):
        there = table.index.isin(known)
        if not there.all():
            notes.append(f"{folder}: {(~there).sum()} cases are missing and count as worst: {_some(table[~there])}")
        for name in values:
            gaps = table[there & table[name].isna() & ranked.loc[table.index, name]]
            if len(gaps):
                more.append(f"{folder}: {len(gaps)} cases have no {name}, which counts as worst: {_some(gaps)}")
    return notes + more


def _some(table: pd.DataFrame) -> str:
    return listed(list(table.index.unique("case")))


def _accuracy(paths: Sequence[Path], labels: LabelMap) -> tuple[list[pd.DataFrame], int]:
    """Return per table and case the means of the organs' and the tumors' scores, and in how many cases a score of a
    table does not count, as another one lacks it; where none is common to all, all that a table has count."""
    columns = {}
    for kind, group in (("organ", labels.organs), ("tumor", labels.tumors)):
        for metric in METRICS if group else ():
            columns[f"{kind}_{metric}"] = [f"{label.name}_{metric}" for label in group]
    tables = [_read(path, [name for names in columns.values() for name in names]) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if table.index.has_duplicates:
            raise EvaluationError(f"{path}: two rows are of the case {table.index[table.index.duplicated()][0]}")
    known = pd.concat([table.notna() for table in tables]).groupby(level=0).all()
    means, unequal = [], set[str]()
    for table in tables:
        found = {}
        for name, names in columns.items():
            common = known.loc[table.index, names]
            counted = table[names].where(common | ~common.any(axis=1).to_numpy()[:, None])
            unequal |= set(table.index[(table[names].notna() & ~common).any(axis=1)])
            found[name] = counted.apply(mean, axis=1).map(_rounded)
        means.append(pd.DataFrame(found, index=table.index))
    return means, len(unequal)


def _efficiency(folders: Sequence[Path], accuracy: Sequence[pd.DataFrame]) -> tuple[list[pd.DataFrame], list[str]]:
    """Return time and GPU area by case, each only if all folders have it, and notes on what does not count."""
    paths = [folder / "efficiency.csv" for folder in folders]
    without = [path for path in paths if not path.exists()]
    if without:
        note = f"time and GPU memory do not count: {without[0].parent} has no efficiency.csv"
        return [table[[]] for table in accuracy], [note]
    tables, notes, blind = [], [], []
    for path, cases in zip(paths, accuracy, strict=True):
        table = _read(path, ["Time", "MaxGPU_Mem", "AUC_GPU_Time"])
        if table.empty:
            raise EvaluationError(f"{path}: has no rows")
        own = table[table.index.isin(cases.index) & ~table.index.duplicated(keep="last")]
        if own.empty:
            notes.append(f"{path}: none of its {len(table)} rows is named as a case of metrics.csv")
        if own["Time"].isna().any():
            raise EvaluationError(f"{path}: {own.index[own['Time'].isna()][0]} has no Time")
        if own[["MaxGPU_Mem", "AUC_GPU_Time"]].isna().any(axis=None):
            blind.append(path)
        area = own["AUC_GPU_Time"].where(own["MaxGPU_Mem"] > MEMORY_TOLERANCE, 0.0)
        tables.append(pd.DataFrame({"time": own["Time"].clip(lower=TIME_TOLERANCE), "gpu_area": area}))
    if blind:
        notes.insert(0, f"GPU memory does not count: {blind[0]} has none for some cases")
        tables = [table[["time"]] for table in tables]
    return tables, notes


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read numbers by case, NaN for an empty cell; the challenge's tables name files, such as `X_0000.nii.gz`.

    Raises:
        EvaluationError: a column is missing, or a cell is not a finite number.
    """
    table = read_table(path)
    if absent := [column for column in ("Name", *columns) if column not in table]:
        hint = "; metrics need those of the configuration's labels" if path.name == "metrics.csv" else ""
        raise EvaluationError(f"{path}: has no column {absent[0]}{hint}")
    names = table["Name"]
    for suffix in (".gz", ".nii", "_0000"):
        names = names.str.removesuffix(suffix)
    table = table.set_index(names.rename("case"))[list(columns)]
    values = table.apply(pd.to_numeric, errors="coerce").astype(float)
    for column in columns:
        wrong = table[column][~np.isfinite(values[column]) & table[column].notna()]
        if len(wrong):
            raise EvaluationError(f"{path}: {wrong.index[0]}: {column} is {str(wrong.iloc[0])!r}, not a number")
    return values


def format_ranking(ranking: Ranking) -> str:
    """Return the ranking for the terminal."""
    columns = ["rank", "mean_rank", *(f"{name}_rank" for name in ranking.metrics), "folder"]
    shown = ranking.table[columns].to_string(index=False, float_format="{:.2f}".format)
    means = f"mean ranks over {ranking.cases} cases and {len(ranking.metrics)} metrics"
    return "\n".join([shown, means, *ranking.notes])
