"""The paper's Tables 6 to 9 from our own numbers, with the published ones beside them where they mean the same.

Scores are in percent, as in the paper; intervals are the 95 % intervals of `statistics`. Figures of the paper stand
only beside the classes that it names; a cohort with other organs gets its tables without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flare23_lib.evaluation import paper
from flare23_lib.evaluation.formats import Table
from flare23_lib.evaluation.statistics import MEASURES, compare, number
from flare23_lib.evaluation.tables import ORGANS
from flare23_lib.labels import LabelMap

NONE = "-"
"""Shown where there is no number."""

_LOADS = {"Time": "seconds", "MaxGPU_Mem": "gpu_peak", "AUC_GPU_Time": "gpu_area"}
"""Columns of efficiency.csv and what the paper's ranges call them; its areas are the challenge's sums."""


@dataclass(frozen=True)
class Evaluated:
    """One model's tables, as read: rows of text.

    Attributes:
        name: of the model.
        summary: summary.csv.
        metrics: metrics.csv.
        efficiency: efficiency.csv; empty if it was not measured.
    """

    name: str
    summary: Sequence[Mapping[str, str]]
    metrics: Sequence[Mapping[str, str]]
    efficiency: Sequence[Mapping[str, str]] = field(default_factory=tuple)

    def cell(self, label: str, column: str) -> float | None:
        """Return a number of the summary in percent; None if there is none."""
        value = next((number(row[column]) for row in self.summary if row["class"] == label), None)
        return None if value is None else 100 * value

    def mean(self, column: str) -> float | None:
        """Return the mean of a column of the efficiency; None if a case has no number, or none was measured."""
        values = [number(row[column]) for row in self.efficiency]
        return None if not values or None in values else float(np.mean(values))


def table_names(labels: LabelMap, pairs: Sequence[Sequence[str]], measured: bool) -> list[str]:
    """Return the tables that there are for a configuration.

    Args:
        labels: the structures; Table 9 needs the published organs.
        pairs: models to compare, for Table 7.
        measured: whether efficiency is measured, for Table 8.
    """
    wanted = {"table6": True, "table7": bool(pairs), "table8": measured, "table9": paper.organs_match(labels)}
    return [name for name, is_made in wanted.items() if is_made]


def make_tables(
    models: Sequence[Evaluated],
    labels: LabelMap,
    pairs: Sequence[Sequence[str]],
    shapes: Mapping[str, str],
    mode: str = "flare23",
    references: str = "complete",
) -> dict[str, Table]:
    """Return all tables by name; those without anything to show (no pairs, no efficiency) are left out.

    Args:
        models: the evaluated models.
        labels: the structures.
        pairs: names of models to compare.
        shapes: per case its size in words.
        mode: how ours were scored (`metrics.MODES`).
        references: "complete", or "partial" if ours are scored only where a reference holds the class.
    """
    tables = [
        table6(models, labels, _other_rules(labels, mode, references)),
        table7(models, labels, pairs),
        table8(models, labels, shapes),
        table9(models, labels, _other_rules(labels, mode, references)),
    ]
    wanted = table_names(labels, pairs, any(model.efficiency for model in models))
    return {table.name: table for table in tables if table.name in wanted}


def _fixed(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


def _shown(label: str) -> str:
    return "organs, mean" if label == ORGANS else label.replace("_", " ")


def _classes(labels: LabelMap) -> list[str]:
    """Return the classes in the order of the tables: organs, their mean, tumors."""
    organs = [label.name for label in labels.organs]
    return [*organs, *([ORGANS] if organs else []), *(label.name for label in labels.tumors)]


def _published(result: paper.Published, label: str, labels: LabelMap) -> dict[str, float | None]:
    """Return a result's DSC and NSD of a class of our tables, if it has them."""
    if label == ORGANS and paper.organs_match(labels):
        return {"DSC": result.organ_dsc, "NSD": result.organ_nsd}
    if label == paper.TUMOR and paper.tumor_matches(labels):
        return {"DSC": result.tumor_dsc, "NSD": result.tumor_nsd}
    return dict.fromkeys(MEASURES)


def _other_rules(labels: LabelMap, mode: str, references: str) -> list[str]:
    """Say in which rules our scores differ from the published ones beside them."""
    lines = []
    if mode != "flare23":
        lines.append(f"Ours are scored in the mode {mode}, the published figures by the challenge's rules.")
    if references == "partial":
        lines.append("Ours are scored in a case only for the classes that its reference holds.")
    known = [(label, paper.TOLERANCES_MM[label.name]) for label in labels.labels if label.name in paper.TOLERANCES_MM]
    other = [f"{_shown(label.name)} ({label.tolerance_mm:g} mm, not {of:g})" for label, of in known
             if label.tolerance_mm != of]  # fmt: skip
    if other:
        lines.append(f"The tolerances of our NSD are not the challenge's for {', '.join(other)}.")
    return lines


def table6(models: Sequence[Evaluated], labels: LabelMap, other_rules: Sequence[str]) -> Table:
    """Return Table 6: DSC and NSD by class, each model's, and the paper's where it names them."""
    results = [paper.PAPER_VALIDATION, paper.PAPER_TEST]
    results = results if paper.organs_match(labels) or paper.tumor_matches(labels) else []
    records, cells = [], []
    for label in _classes(labels):
        record: dict[str, Any] = {"class": label}
        row = [_shown(label)]
        for model in models:
            for measure in MEASURES:
                for statistic in ("mean", "std", "median", "low", "high"):
                    value = model.cell(label, f"{measure}_{statistic}")
                    record[f"{model.name}_{measure}_{statistic}"] = _rounded(value)
                row.append(_with_interval(model, label, measure))
        for result in results:
            for measure, value in _published(result, label, labels).items():
                record[f"paper_{_split(result).replace(' ', '_')}_{measure}"] = value
                row.append(_fixed(value))
        records.append(record)
        cells.append(row)
    heads = [f"{model.name} {measure}" for model in models for measure in MEASURES]
    heads += [
        f"paper, {result.cases.removeprefix('FLARE23 ')} {measure}" for result in results for measure in MEASURES
    ]
    notes = ["Means over cases in percent, with their standard deviation and the 95 % interval of the mean."]
    notes += _remarks(models) + (list(other_rules) if results else [])
    return Table("table6", "DSC and NSD by class", records, ["class", *heads], cells, notes)


def _split(result: paper.Published) -> str:
    return result.cases.removeprefix("FLARE23 ")


def _with_interval(model: Evaluated, label: str, measure: str) -> str:
    mean, std, low, high = (model.cell(label, f"{measure}_{name}") for name in ("mean", "std", "low", "high"))
    text = _fixed(mean)
    text += "" if std is None else f" ± {std:.2f}"
    return text + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def _remarks(models: Sequence[Evaluated]) -> list[str]:
    """Return what goes with each model: its number of cases, and what its summary notes about classes."""
    remarks = []
    for model in models:
        noted = _noted(model.summary)
        remarks.append("; ".join([f"{model.name}: {len(model.metrics)} validation cases", *noted]) + ".")
    return remarks


def _noted(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """Return what a summary notes about its classes."""
    return [f"{_shown(row['class'])}: {row['note']}" for row in rows if row["note"]]


def _unseen(models: Sequence[Evaluated]) -> list[str]:
    """Return a line for each model whose means are of fewer organs, since it never saw the others."""
    lines = []
    for model in models:
        noted = _noted(row for row in model.summary if row["class"] != ORGANS)
        if noted:
            lines.append(f"{model.name}: its mean is of the other organs ({'; '.join(noted)}).")
    return lines


def table7(models: Sequence[Evaluated], labels: LabelMap, pairs: Sequence[Sequence[str]]) -> Table:
    """Return Table 7: pairs of models compared case by case."""
    by_name = {model.name: model for model in models}
    records, cells = [], []
    for first, second in pairs:
        rows = compare(by_name[first].metrics, by_name[second].metrics, labels, ORGANS)
        for row in sorted(rows, key=lambda row: _classes(labels).index(row["class"])):
            percent = {key: _percent(value) for key, value in row.items() if key.startswith(MEASURES)}
            records.append(
                {"first": first, "second": second, "class": row["class"], "cases": row["cases"], **percent}
            )
            line = [f"{first} - {second}" if len(pairs) > 1 else "", _shown(row["class"]), str(row["cases"])]
            for measure in MEASURES:
                line += [_fixed(percent[f"{measure}_first"]), _fixed(percent[f"{measure}_second"])]
                line.append(_difference(*(percent[f"{measure}_{name}"] for name in ("difference", "low", "high"))))
            cells.append(line if len(pairs) > 1 else line[1:])
    names = pairs[0] if len(pairs) == 1 else ("first", "second")
    heads = [f"{name} {measure}" for measure in MEASURES for name in (*names, "difference")]
    heads = [*(["models"] if len(pairs) > 1 else []), "class", "cases", *heads]
    notes = ["Percent; differences are paired by case, with the 95 % interval of their mean."]
    notes += _unseen([by_name[name] for name in dict.fromkeys(name for pair in pairs for name in pair)])
    return Table("table7", "Ablation", records, heads, cells, notes)


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _difference(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:+.2f}" + ("" if low is None else f" [{low:+.2f}, {high:+.2f}]")


def table8(models: Sequence[Evaluated], labels: LabelMap, shapes: Mapping[str, str]) -> Table:
    """Return Table 8: what cases took, one at a time in a fresh process; the paper's range below."""
    columns = ["Time", "MaxGPU_Mem", "AUC_GPU_Time", "GPU_Area", "MaxRAM", "RAM_Area", "CPU_Area"]
    records, cells = [], []
    for model in models:
        for row in model.efficiency:
            values = {column: number(row[column]) for column in columns}
            size = shapes.get(row["Name"], NONE)
            where = {"GPU": row["GPU"] or None, "cores": row["Cores"]}
            records.append({"model": model.name, "case": row["Name"], "size": size, **values, **where})
            cells.append([row["Name"], model.name, size, *_loads(values)])
    if paper.organs_match(labels):
        ranges = {column: paper.EFFICIENCY.get(_LOADS.get(column, "")) for column in columns}
        texts = [NONE if span is None else f"{span.low:,} to {span.high:,}" for span in ranges.values()]
        cells.append([f"paper's cases ({paper.EFFICIENCY_MACHINE})", "", "", *texts])
    heads = ["case", "model", "size", "time, s", "GPU peak, MB", "GPU area, official sum, MB s", "GPU area, MB s",
             "RAM peak, MB", "RAM area, MB s", "CPU area, % s"]  # fmt: skip
    machines = sorted({f"{row['GPU'] or 'no GPU'}, {row['Cores']} cores" for m in models for row in m.efficiency})
    notes = [
        "Each case in a process of its own, start-up included. MB are 2**20 bytes.",
        *(f"{m}." for m in machines),
    ]
    return Table("table8", "Efficiency", records, heads, cells, notes)


def _loads(values: Mapping[str, float | None]) -> list[str]:
    return [_fixed(value, 2) if column == "Time" else _fixed(value, 0) for column, value in values.items()]


def table9(models: Sequence[Evaluated], labels: LabelMap, other_rules: Sequence[str]) -> Table:
    """Return Table 9: our models beside the challenge's published results."""
    heads = [
        "system",
        "cases",
        "organ DSC",
        "organ NSD",
        "tumor DSC",
        "tumor NSD",
        "time, s",
        "GPU area, official sum, MB s",
        "note",
    ]
    records = []
    for model in models:
        tumor = paper.TUMOR if paper.tumor_matches(labels) else ""
        scores = [model.cell(label, f"{measure}_mean") for label in (ORGANS, tumor) for measure in MEASURES]
        gpus = sorted({row["GPU"] for row in model.efficiency if row["GPU"]})
        loads = [model.mean("Time"), model.mean("AUC_GPU_Time")]
        cases = f"our {len(model.metrics)} validation cases"
        records.append([f"ours: {model.name}", cases, *map(_rounded, scores), *map(_rounded, loads), ", ".join(gpus)])
    for result in paper.RESULTS:
        scores = [result.organ_dsc, result.organ_nsd, result.tumor_dsc, result.tumor_nsd]
        records.append([result.name, result.cases, *scores, result.seconds, result.gpu_area, result.note])
    cells = [[*row[:2], *map(_fixed, row[2:6]), _fixed(row[6]), _fixed(row[7], 0), row[8]] for row in records]
    notes = ["Scores in percent. Other cases and other machines: the published figures place ours, no more."]
    notes += [*other_rules, *_unseen(models)]
    notes += [
        f"{model.name}: time and GPU area are means of {len(model.efficiency)} measured cases."
        for model in models
        if model.efficiency
    ]
    plain = [dict(zip(heads, row, strict=True)) for row in records]
    return Table("table9", "Ours beside published results", plain, heads, cells, notes)
