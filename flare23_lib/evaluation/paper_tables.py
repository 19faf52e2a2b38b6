"""The paper's Tables 6 to 9 from our own numbers, with the published ones beside them where they mean the same.

Scores are in percent, as in the paper; intervals are the 95 % intervals of `statistics`. Figures of the paper stand
only beside the classes that it names; a cohort with other organs gets its tables without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flare23_lib.evaluation import paper
from flare23_lib.evaluation.cases import Scoring
from flare23_lib.evaluation.formats import Table
from flare23_lib.evaluation.metrics import PUBLISHED_MIN_DSC_FOR_NSD
from flare23_lib.evaluation.statistics import METRICS, ORGANS, compare
from flare23_lib.evaluation.tables import read_table
from flare23_lib.labels import LabelMap

NONE = "-"
"""Shown where there is no number."""

STATISTICS = ("mean", "std", "median", "low", "high")

_LOADS = {"Time": "seconds", "MaxGPU_Mem": "gpu_peak", "AUC_GPU_Time": "gpu_area"}
"""Columns of efficiency.csv and what the paper's ranges call them; its areas are the challenge's sums."""


@dataclass(frozen=True)
class Evaluated:
    """One model's tables.

    Attributes:
        name: of the model.
        summary: summary.csv, by class.
        metrics: metrics.csv.
        efficiency: efficiency.csv; None if it was not measured.
    """

    name: str
    summary: pd.DataFrame
    metrics: pd.DataFrame
    efficiency: pd.DataFrame | None = None

    @classmethod
    def read(cls, folder: Path, measured: bool) -> Evaluated:
        """Read the tables of a model, whose name is the folder's; StoreError if one is missing."""
        summary, metrics = (read_table(folder / f"{name}.csv") for name in ("summary", "metrics"))
        efficiency = read_table(folder / "efficiency.csv") if measured else None
        return cls(folder.name, summary.set_index("class"), metrics, efficiency)

    def percent(self, classes: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
        """Return columns of the summary in percent; NaN where it has no number."""
        return 100 * self.summary.reindex(classes)[list(columns)]

    def mean_load(self, column: str) -> float:
        """Return the mean of a column of the efficiency; NaN if a case has no number, or none was measured."""
        return np.nan if self.efficiency is None else self.efficiency[column].mean(skipna=False)


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
    scoring: Scoring,
    pairs: Sequence[Sequence[str]],
    shapes: Mapping[str, str],
) -> dict[str, Table]:
    """Return all tables by name; those without anything to show (no pairs, no efficiency) are left out.

    Args:
        models: the evaluated models.
        scoring: how they were scored.
        pairs: names of models to compare.
        shapes: per case its size in words.
    """
    labels, other_rules = scoring.labels, _other_rules(scoring)
    measured = any(model.efficiency is not None for model in models)
    makers = {
        "table6": lambda: table6(models, labels, other_rules),
        "table7": lambda: table7(models, labels, pairs),
        "table8": lambda: table8(models, labels, shapes),
        "table9": lambda: table9(models, labels, other_rules),
    }
    return {name: makers[name]() for name in table_names(labels, pairs, measured)}


def _fixed(value: float | None, digits: int = 2) -> str:
    return NONE if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _shown(label: str) -> str:
    return "organs, mean" if label == ORGANS else label.replace("_", " ")


def _classes(labels: LabelMap) -> list[str]:
    """Return the classes in the order of the tables: organs, their mean, tumors."""
    organs = [label.name for label in labels.organs]
    return [*organs, *([ORGANS] if organs else []), *(label.name for label in labels.tumors)]


def _published(result: paper.Published, label: str, labels: LabelMap, metric: str) -> float | None:
    """Return a result's score of a class of our tables, if it has one."""
    if label == ORGANS and paper.organs_match(labels):
        return getattr(result, f"organ_{metric.lower()}", None)
    if label == paper.TUMOR and paper.tumor_matches(labels):
        return getattr(result, f"tumor_{metric.lower()}", None)
    return None


def _other_rules(scoring: Scoring) -> list[str]:
    """Return a line for each rule in which our scores differ from the published ones beside them."""
    labels, lines = scoring.labels, []
    if scoring.mode != "flare23":
        lines.append(f"Ours are scored in the mode {scoring.mode}, the published figures by the challenge's rules.")
    elif scoring.min_dsc_for_nsd != PUBLISHED_MIN_DSC_FOR_NSD:
        lines.append(
            f"Our NSD is 0 below a DSC of {scoring.min_dsc_for_nsd:g}, that of FLARE23's published results below "
            f"{PUBLISHED_MIN_DSC_FOR_NSD:g}, as in the challenge's script of 2023."
        )
    if scoring.partial_references:
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
    classes = _classes(labels)
    values = pd.DataFrame({"class": classes})
    shown = pd.DataFrame({"class": map(_shown, classes)})
    for model in models:
        for metric in METRICS:
            scores = model.percent(classes, [f"{metric}_{statistic}" for statistic in STATISTICS])
            values[[f"{model.name}_{column}" for column in scores]] = scores.round(2).to_numpy()
            shown[f"{model.name} {metric}"] = [_with_interval(*row) for row in scores.to_numpy()]
    for result in results:
        split = result.cases.removeprefix("FLARE23 ")
        for metric in METRICS:
            published = [_published(result, label, labels, metric) for label in classes]
            values[f"paper_{split.replace(' ', '_')}_{metric}"] = published
            shown[f"paper, {split} {metric}"] = [_fixed(value) for value in published]
    notes = ["Means over cases in percent, with their standard deviation and the 95 % interval of the mean."]
    for model in models:
        cases = f"{model.name}: {len(model.metrics)} validation cases"
        notes.append("; ".join([cases, *_noted(model.summary["note"])]) + ".")
    notes += other_rules if results else []
    return Table("table6", "DSC and NSD by class", values, shown, notes)


def _with_interval(mean: float, std: float, median: float, low: float, high: float) -> str:
    text = _fixed(mean)
    text += "" if np.isnan(std) else f" ± {std:.2f}"
    return text + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def _noted(notes: pd.Series) -> list[str]:
    """Return what a summary notes about its classes."""
    return [f"{_shown(name)}: {note}" for name, note in notes.items() if note]


def _unseen(models: Iterable[Evaluated]) -> list[str]:
    """Return a line for each model whose means are of fewer organs, since it never saw the others."""
    lines = []
    for model in models:
        noted = _noted(model.summary["note"].drop(ORGANS, errors="ignore"))
        if noted:
            lines.append(f"{model.name}: its mean is of the other organs ({'; '.join(noted)}).")
    return lines


def table7(models: Sequence[Evaluated], labels: LabelMap, pairs: Sequence[Sequence[str]]) -> Table:
    """Return Table 7: pairs of models compared case by case."""
    by_name = {model.name: model for model in models}
    names = pairs[0] if len(pairs) == 1 else ("first", "second")
    values, shown = [], []
    for first, second in pairs:
        compared = compare(by_name[first].metrics, by_name[second].metrics, labels).loc[_classes(labels)]
        percent = (100 * compared.drop(columns="cases")).round(2)
        head = pd.DataFrame({"first": first, "second": second, "class": compared.index, "cases": compared["cases"]})
        values.append(head.join(percent))
        text = pd.DataFrame(
            {"class": map(_shown, compared.index), "cases": compared["cases"].map(str)}, compared.index
        )
        if len(pairs) > 1:
            text.insert(0, "models", f"{first} - {second}")
        for metric in METRICS:
            for name, side in zip(names, ("first", "second"), strict=True):
                text[f"{name} {metric}"] = percent[f"{metric}_{side}"].map(_fixed)
            differences = percent[[f"{metric}_{column}" for column in ("difference", "low", "high")]]
            text[f"difference {metric}"] = [_difference(*row) for row in differences.to_numpy()]
        shown.append(text)
    notes = ["Percent; differences are paired by case, with the 95 % interval of their mean."]
    notes += _unseen(by_name[name] for name in dict.fromkeys(name for pair in pairs for name in pair))
    return Table("table7", "Ablation", pd.concat(values), pd.concat(shown), notes)


def _difference(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return NONE
    return f"{value:+.2f}" + ("" if np.isnan(low) else f" [{low:+.2f}, {high:+.2f}]")


def table8(models: Sequence[Evaluated], labels: LabelMap, shapes: Mapping[str, str]) -> Table:
    """Return Table 8: what cases took, one at a time in a fresh process; the paper's range below."""
    heads = {
        "Time": "time, s",
        "MaxGPU_Mem": "GPU peak, MB",
        "AUC_GPU_Time": "GPU area, official sum, MB s",
        "GPU_Area": "GPU area, MB s",
        "MaxRAM": "RAM peak, MB",
        "RAM_Area": "RAM area, MB s",
        "CPU_Area": "CPU area, % s",
    }
    measured = pd.concat({model.name: model.efficiency for model in models if model.efficiency is not None})
    names = measured.index.get_level_values(0)
    sizes = measured["Name"].map(lambda case: shapes.get(case, NONE))
    where = {"model": names, "case": measured["Name"], "size": sizes}
    loads = measured[list(heads)].astype(float)
    values = pd.DataFrame(where).join(loads).assign(GPU=measured["GPU"], cores=measured["Cores"])
    texts = loads.apply(lambda column: column.map(lambda value: _fixed(value, 2 if column.name == "Time" else 0)))
    shown = pd.DataFrame({"case": measured["Name"], "model": names, "size": sizes}).join(texts.rename(columns=heads))
    shown = shown.reset_index(drop=True)
    if paper.organs_match(labels):
        spans = [paper.EFFICIENCY.get(_LOADS.get(column, "")) for column in heads]
        ranges = [NONE if span is None else f"{span.low:,} to {span.high:,}" for span in spans]
        shown.loc[len(shown)] = [f"paper's cases ({paper.EFFICIENCY_MACHINE})", "", "", *ranges]
    machines = {f"{row['GPU'] or 'no GPU'}, {row['Cores']} cores" for _, row in measured.iterrows()}
    notes = ["Each case in a process of its own, start-up included. MB are 2**20 bytes."]
    return Table("table8", "Efficiency", values, shown, [*notes, *(f"{machine}." for machine in sorted(machines))])


def table9(models: Sequence[Evaluated], labels: LabelMap, other_rules: Sequence[str]) -> Table:
    """Return Table 9: our models beside the challenge's published results."""
    heads = {
        "system": str,
        "cases": str,
        "organ DSC": _fixed,
        "organ NSD": _fixed,
        "tumor DSC": _fixed,
        "tumor NSD": _fixed,
        "time, s": _fixed,
        "GPU area, official sum, MB s": lambda value: _fixed(value, 0),
        "note": str,
    }
    rows = []
    for model in models:
        tumor = paper.TUMOR if paper.tumor_matches(labels) else ""
        scores = model.percent([ORGANS, tumor], [f"{metric}_mean" for metric in METRICS]).to_numpy().ravel()
        loads = [model.mean_load(column) for column in ("Time", "AUC_GPU_Time")]
        gpus = [] if model.efficiency is None else sorted(set(model.efficiency["GPU"]) - {""})
        numbers = [round(float(number), 2) for number in (*scores, *loads)]
        rows.append([f"ours: {model.name}", f"our {len(model.metrics)} validation cases", *numbers, ", ".join(gpus)])
    for result in paper.RESULTS:
        scores = [result.organ_dsc, result.organ_nsd, result.tumor_dsc, result.tumor_nsd]
        rows.append([result.name, result.cases, *scores, result.seconds, result.gpu_area, result.note])
    values = pd.DataFrame(rows, columns=list(heads), dtype=object)
    shown = values.apply(lambda column: column.map(heads[column.name]))
    notes = ["Scores in percent. Other cases and other machines: the published figures place ours, no more."]
    notes += [*other_rules, *_unseen(models)]
    notes += [
        f"{model.name}: time and GPU area are means of {len(model.efficiency)} measured cases."
        for model in models
        if model.efficiency is not None
    ]
    return Table("table9", "Ours beside published results", values, shown, notes)
