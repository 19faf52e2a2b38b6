"""The paper's Tables 6 to 9 from our own numbers, with the published ones beside them where they mean the same.

Scores are in percent, as in the paper; intervals are the 95 % intervals of `tables`. Published
figures (published.yaml) stand only beside the classes that they name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from flare23_lib.cache.results import Results
from flare23_lib.config.cohort_models import label_map
from flare23_lib.config.settings import TablesSettings
from flare23_lib.dataset.cases import usable_cases
from flare23_lib.evaluation.cases import Scoring
from flare23_lib.evaluation.metrics import METRICS, PUBLISHED_MIN_DSC_FOR_NSD
from flare23_lib.evaluation.tables import ORGANS, compare, read_table, write_table
from flare23_lib.io.atomic import write_text
from flare23_lib.labels import LabelMap

log = logging.getLogger(__name__)

PUBLISHED: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("published.yaml").read_text(encoding="utf-8"))
TUMOR = "tumor"
PUBLISHED_ORGANS = [name for name in PUBLISHED["tolerances_mm"] if name != TUMOR]
PAPER_RESULTS = [result for result in PUBLISHED["results"] if result["system"].startswith("paper")]

TABLES = ("table6", "table7", "table8", "table9")
FORMATS = ("csv", "md", "tex")

_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%_#${}"}
    | {"±": r"$\pm$", "–": "--", "^": r"\^{}", "~": r"\~{}", "\\": "/"}
)


@dataclass(frozen=True)
class PaperTable:
    """A table with its title and notes: plain values for CSV, text for Markdown and LaTeX."""

    title: str
    values: pd.DataFrame
    shown: pd.DataFrame
    notes: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Write all `FORMATS`; `path` is that of the files without a suffix."""
        write_table(path.with_suffix(".csv"), self.values)
        write_text(path.with_suffix(".md"), self.to_markdown())
        write_text(path.with_suffix(".tex"), self.to_latex())

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        rules = ["---", *["---:"] * (len(self.shown.columns) - 1)]
        rows = [self.shown.columns, rules, *self.shown.map(lambda cell: cell.replace("|", r"\|")).to_numpy()]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([f"**{self.title}**\n", *lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    def to_latex(self) -> str:
        """Return the table as a LaTeX `table` that needs no package."""
        rows = [self.shown.columns, *self.shown.to_numpy()]
        head, *body = (" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in rows)
        caption = " ".join([f"{self.title}.", *self.notes]).translate(_LATEX)
        columns = "r" * (len(self.shown.columns) - 1)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{l{columns}}}"]
        lines += [r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Evaluated:
    """One model's tables: summary.csv by class, metrics.csv, and efficiency.csv, empty if it was not measured."""

    name: str
    summary: pd.DataFrame
    metrics: pd.DataFrame
    efficiency: pd.DataFrame

    @classmethod
    def read(cls, folder: Path, measured: bool) -> Evaluated:
        """Read the tables of a model, whose name is the folder's; StoreError if one is missing."""
        summary, metrics = (read_table(folder / f"{name}.csv") for name in ("summary", "metrics"))
        efficiency = read_table(folder / "efficiency.csv") if measured else pd.DataFrame()
        return cls(folder.name, summary.set_index("class"), metrics, efficiency)

    def percent(self, classes: Sequence[str], statistics: Sequence[str]) -> pd.DataFrame:
        """Return statistics of all metrics of the summary as `_percent`; NaN where it has no number."""
        columns = [f"{metric}_{statistic}" for metric in METRICS for statistic in statistics]
        return _percent(self.summary.reindex(classes)[columns])

    @property
    def notes(self) -> list[str]:
        """The notes of the summary about its classes and the mean of organs."""
        return [f"{_shown(name)}: {note}" for name, note in self.summary["note"].items() if note]


def write_tables(results: Results, settings: TablesSettings, folder: Path) -> None:
    """Write the paper's tables from the evaluations of all models into a folder."""
    labels = label_map(settings.labels)
    models = [Evaluated.read(results.summary(name).parent, settings.measured) for name in settings.models]
    cases = usable_cases(results.cases, "validation")
    shapes = {case.case: "x".join(map(str, case.shape[::-1])) for case in cases if case.shape}
    tables = make_tables(models, Scoring.from_settings(settings, labels), settings.compare, shapes)
    for name in set(TABLES) - set(tables):  # what this configuration does not contain is from earlier scores
        for suffix in FORMATS:
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for name, table in tables.items():
        table.write(folder / name)
        log.info("%s: %s", name, table.title)


def table_names(labels: LabelMap, pairs: Sequence[Sequence[str]], measured: bool) -> list[str]:
    """Return the tables of a configuration: Table 7 for pairs of models, 9 for the published organs."""
    wanted = {"table6": True, "table7": bool(pairs), "table8": measured, "table9": _organs_match(labels)}
    return [name for name, is_made in wanted.items() if is_made]


def make_tables(
    models: Sequence[Evaluated], scoring: Scoring, pairs: Sequence[Sequence[str]], shapes: Mapping[str, str]
) -> dict[str, PaperTable]:
    """Return the tables of `table_names`; `shapes` has the size of each case as text."""
    tables = {"table6": _table6(models, scoring)}
    if pairs:
        tables["table7"] = _table7(models, scoring.labels, pairs)
    if any(len(model.efficiency) for model in models):
        tables["table8"] = _table8(models, scoring.labels, shapes)
    if _organs_match(scoring.labels):
        tables["table9"] = _table9(models, scoring)
    return tables


def _organs_match(labels: LabelMap) -> bool:
    """Return whether the organs are the published ones, so that their mean means the same."""
    return sorted(label.name for label in labels.organs) == sorted(PUBLISHED_ORGANS)


def _fixed(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _with_interval(value: float, low: float, high: float, std: float = np.nan, sign: str = "") -> str:
    if np.isnan(value):
        return "-"
    deviation = "" if np.isnan(std) else f" ± {std:.2f}"
    return f"{value:{sign}.2f}{deviation}" + ("" if np.isnan(low) else f" [{low:{sign}.2f}, {high:{sign}.2f}]")


def _shown(label: str) -> str:
    return "organs, mean" if label == ORGANS else label.replace("_", " ")


def _percent(scores: pd.DataFrame) -> pd.DataFrame:
    """Return columns such as DSC_mean in percent, those of a metric with a unit as they are."""
    return scores * [METRICS[column.rpartition("_")[0]].scale for column in scores]


def _classes(labels: LabelMap) -> list[str]:
    """Return the classes in the order of the tables: organs, their mean, tumors."""
    organs, tumors = ([label.name for label in group] for group in (labels.organs, labels.tumors))
    return [*organs, *([ORGANS] if organs else []), *tumors]


def _differences(scoring: Scoring) -> list[str]:
    """Return a line for each rule in which our scores differ from the published ones beside them."""
    lines = []
    if scoring.mode != "flare23":
        lines.append(f"Ours are scored in the mode {scoring.mode}, the published figures by the challenge's rules.")
    elif scoring.min_dsc_for_nsd != PUBLISHED_MIN_DSC_FOR_NSD:
        lines.append(
            f"Our NSD is 0 below a DSC of {scoring.min_dsc_for_nsd:g}, that of FLARE23's published results below "
            f"{PUBLISHED_MIN_DSC_FOR_NSD:g}, as in the challenge's script of 2023."
        )
    if scoring.partial_references:
        lines.append(
            "Ours are scored in a case only for classes that occur in its reference or are annotated in its source."
        )
    other = []
    for label in scoring.labels.labels:
        official = PUBLISHED["tolerances_mm"].get(label.name, label.tolerance_mm)
        if label.tolerance_mm != official:
            other.append(f"{_shown(label.name)} ({label.tolerance_mm:g} mm, not {official:g})")
    if other:
        lines.append(f"The tolerances of our NSD are not the challenge's for {', '.join(other)}.")
    return lines


def _means_of_fewer(models: Iterable[Evaluated]) -> list[str]:
    """Return a line for each model with classes that it never saw, or whose means are of fewer organs."""
    return [f"{model.name}: {'; '.join(model.notes)}." for model in models if model.notes]


def _table6(models: Sequence[Evaluated], scoring: Scoring) -> PaperTable:
    """Return the scores by class: each model's, and the paper's where it names them."""
    labels = scoring.labels
    classes = _classes(labels)
    published = {ORGANS: "organ"} if _organs_match(labels) else {}
    published |= {label.name: "tumor" for label in labels.tumors if label.name == TUMOR}
    values, shown = pd.DataFrame({"class": classes}), pd.DataFrame({"class": map(_shown, classes)})
    notes = ["Means over cases in percent, with their standard deviation and the 95 % interval of the mean."]
    for model in models:
        scores = model.percent(classes, ["mean", "std", "median", "low", "high"]).reset_index(drop=True)
        values = values.join(scores.round(2).add_prefix(f"{model.name}_"))
        for metric in METRICS.values():
            numbers = scores[[f"{metric.name}_{statistic}" for statistic in ("mean", "low", "high", "std")]]
            shown[f"{model.name} {metric.title}"] = [_with_interval(*row) for row in numbers.to_numpy()]
        cases = f"{model.name}: {len(model.metrics)} validation cases"
        notes.append("; ".join([cases, *model.notes]) + ".")
        counts = model.summary["cases"].reindex(classes).reset_index(drop=True)
        values[f"{model.name}_cases"] = counts
        if (counts != len(model.metrics)).any():
            shown[f"{model.name} cases"] = counts.map(str)
    if published:
        for result in PAPER_RESULTS[::-1]:
            split = result["cases"].removeprefix("FLARE23 ")
            for name in METRICS:
                column = [result.get(f"{published.get(label)} {name}") for label in classes]
                values[f"paper_{split.replace(' ', '_')}_{name}"] = column
                shown[f"paper, {split} {name}"] = [_fixed(value) for value in column]
        notes += _differences(scoring)
    return PaperTable(f"{' and '.join(METRICS)} by class", values, shown, notes)


def _table7(models: Sequence[Evaluated], labels: LabelMap, pairs: Sequence[Sequence[str]]) -> PaperTable:
    """Return pairs of models compared case by case."""
    by_name = {model.name: model for model in models}
    names = pairs[0] if len(pairs) == 1 else ("first", "second")
    values, shown = [], []
    for first, second in pairs:
        compared = compare(by_name[first].metrics, by_name[second].metrics, labels)
        compared = compared.loc[_classes(labels)].reset_index()
        percent = _percent(compared.drop(columns=["class", "cases"])).round(2)
        values.append(compared[["class", "cases"]].join(percent))
        values[-1].insert(0, "first", first)
        values[-1].insert(1, "second", second)
        text = pd.DataFrame({"class": compared["class"].map(_shown), "cases": compared["cases"].map(str)})
        if len(pairs) > 1:
            text.insert(0, "models", f"{first} - {second}")
        for metric in METRICS.values():
            for name, side in zip(names, ("first", "second"), strict=True):
                text[f"{name} {metric.title}"] = percent[f"{metric.name}_{side}"].map(_fixed)
            numbers = percent[[f"{metric.name}_{column}" for column in ("difference", "low", "high")]]
            text[f"difference {metric.title}"] = [
                _with_interval(mean, low, high, sign="+") for mean, low, high in numbers.to_numpy()
            ]
        shown.append(text)
    notes = ["Percent; differences are paired by case, with the 95 % interval of their mean."]
    fewer = _means_of_fewer(by_name[name] for name in dict.fromkeys(name for pair in pairs for name in pair))
    if fewer:
        notes += ["Means of organs are of those that both models have.", *fewer]
    return PaperTable("Ablation", pd.concat(values), pd.concat(shown), notes)


def _table8(models: Sequence[Evaluated], labels: LabelMap, shapes: Mapping[str, str]) -> PaperTable:
    """Return time and memory of cases, one at a time in a fresh process; the paper's range below."""
    heads = {
        "Time": "time, s",
        "MaxGPU_Mem": "GPU peak, MB",
        "AUC_GPU_Time": "GPU area, official sum, MB s",
        "GPU_Area": "GPU area, MB s",
        "MaxRAM": "RAM peak, MB",
        "RAM_Area": "RAM area, MB s",
        "CPU_Area": "CPU area, % s",
    }
    measured = pd.concat([model.efficiency.assign(model=model.name) for model in models], ignore_index=True)
    sizes = measured["Name"].map(lambda case: shapes.get(case, "-"))
    loads = measured[list(heads)].astype(float)
    cases = pd.DataFrame({"model": measured["model"], "case": measured["Name"], "size": sizes})
    values = cases.join(loads).assign(GPU=measured["GPU"], cores=measured["Cores"])
    texts = loads.apply(lambda column: column.map(lambda value: _fixed(value, 2 if column.name == "Time" else 0)))
    shown = cases[["case", "model", "size"]].join(texts.rename(columns=heads))
    if _organs_match(labels):
        ranges = [PUBLISHED["efficiency"].get(column, "-") for column in heads]
        shown.loc[len(shown)] = [f"paper's cases ({PUBLISHED['efficiency_machine']})", "", "", *ranges]
    machines = {f"{gpu or 'no GPU'}, {cores} cores." for gpu, cores in measured[["GPU", "Cores"]].to_numpy()}
    notes = ["Each case in a process of its own, start-up included. MB are 2**20 bytes.", *sorted(machines)]
    return PaperTable("Efficiency", values, shown, notes)


def _table9(models: Sequence[Evaluated], scoring: Scoring) -> PaperTable:
    """Return our models beside the challenge's published results."""
    scores = [f"{group} {metric.title}" for group in ("organ", "tumor") for metric in METRICS.values()]
    columns = ["system", "cases", *scores, "time, s", "GPU area, official sum, MB s", "note"]
    rows = []
    notes = ["Scores in percent. Other cases and other machines: the published figures place ours, no more."]
    notes += [*_differences(scoring), *_means_of_fewer(models)]
    for model in models:
        numbers = list(model.percent([ORGANS, TUMOR], ["mean"]).to_numpy().ravel())
        gpus = ""
        if len(model.efficiency):
            numbers += model.efficiency[["Time", "AUC_GPU_Time"]].mean(skipna=False).tolist()
            gpus = ", ".join(sorted(set(model.efficiency["GPU"]) - {""}))
            notes.append(f"{model.name}: time and GPU area are means of {len(model.efficiency)} measured cases.")
        cells = [round(float(number), 2) for number in numbers]
        cells += [np.nan] * (len(scores) + 2 - len(cells))
        counts = model.summary["cases"].reindex([ORGANS, TUMOR]).dropna().astype(int)
        of = ", ".join(f"{name} {count}" for name, count in counts.items() if count != len(model.metrics))
        cases = f"our {len(model.metrics)} validation cases" + (f" ({of})" if of else "")
        rows.append([f"ours: {model.name}", cases, *cells, gpus])
    rows += [
        [result.get(column, "" if column == "note" else None) for column in columns]
        for result in PUBLISHED["results"]
    ]
    values = pd.DataFrame(rows, columns=columns, dtype=object)
    shown = values.copy()
    for column in columns[2:-1]:
        shown[column] = [_fixed(value, 0 if "GPU" in column else 2) for value in values[column]]
    return PaperTable("Ours beside published results", values, shown, notes)
