"""The report's sections from what lies in a results folder.

Each function reads what its section needs and is there; what is missing is said, and why, in a sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from flare23_lib.cache.results import SHARDED, Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case, read_cases
from flare23_lib.dataset.summary import ALL
from flare23_lib.errors import FlareError
from flare23_lib.evaluation.efficiency import CURVES
from flare23_lib.evaluation.paper_tables import table_names
from flare23_lib.io.atomic import read_json
from flare23_lib.io.tables import read_csv
from flare23_lib.report.boxes import draw_boxes
from flare23_lib.report.efficiency import draw_memory, draw_phases
from flare23_lib.report.page import Block, Grid, Picture, Section, Words
from flare23_lib.report.style import words

FAULTS_LISTED = 50
"""Faults that the page lists one by one; the tables of the cohort have all."""

OUTCOMES_SHOWN = ("kept", "dropped", "taken", "unsure")
TUMOR_OUTCOMES = ("tumor_inside", "unmarked_tumor")
"""Outcomes of a merge that the table of completions has a column for; the latter where a label is a tumor."""

BENCHMARK_SIDES = {
    "nnU-Net": "nnunet",
    "ours, its windows": "ours_all_windows",
    "ours, as deployed": "ours_deployed",
}
"""Bars of the comparison with nnU-Net -> what `benchmarks/inference.py` calls them."""

OF_COMPLETIONS = ("pseudo_label", "complete", "gather_completed")
OF_EVALUATED = ("predict", "gather_predictions", "evaluate", "measure_efficiency")
"""Rules whose jobs are named after a completion, and after a model that is evaluated; the others' after a model."""

NO_MODEL = "No model of the configuration says `evaluate: true`, so none was run on validation cases or scored."


@dataclass(frozen=True)
class Run:
    """A run to report on: its results folder, its configuration, and the folder of the report's figures."""

    results: Results
    config: Config
    figures: Path

    def rows(self, *parts: str) -> list[dict[str, str]] | None:
        """Return the rows of a table of the results folder; None if it is not there."""
        path = self.results.root.joinpath(*parts)
        return read_csv(path) if path.exists() else None

    def picture(self, name: str, description: str, caption: str) -> Block:
        """Return a figure that the workflow has drawn, or words in its place."""
        path = self.figures / f"{name}.svg"
        if path.exists():
            return Picture(path, description, caption)
        return Words(f"The figure {path.name} is not there: the workflow has not drawn it.", missing=True)


def count(number: int, thing: str) -> str:
    """Return a number of things in words, `1 case` or `2 cases`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def cohort(run: Run) -> Section:
    """What went in: categories, geometries, faults."""
    blocks: list[Block] = []
    categories = run.rows("cohort", "categories.csv")
    if categories is None:
        return Section("cohort", "Cohort", [Words("The cohort has not been read yet.", missing=True)])
    rows = [
        (words(row["category"] or row["split"]), row["split"], row["cases"], row["quarantined"])
        for row in categories
        if row["labels_present"] == ALL
    ]
    blocks.append(Grid("Cases by category", ("category", "split", "cases", "quarantined"), rows))
    if not any(row["split"] == "validation" and int(row["cases"]) for row in categories):
        blocks.append(
            Words("The cohort has no validation cases, so nothing can be predicted or scored.", missing=True)
        )
    listed = "; ".join(f"{name}: {cases}, quarantined {left}" for name, _, cases, left in rows)
    blocks.append(
        run.picture("cohort", f"Categories and labels of the cohort. {listed}.", "The labels in each category.")
    )
    cases = [case for case in read_cases(run.results.cases) if case.shape and case.spacing]
    if cases:
        blocks.append(geometries(cases))
    blocks += faults(run)
    return Section("cohort", "Cohort", blocks)


def geometries(cases: Sequence[Case]) -> Grid:
    """Return a table of sizes and spacings."""
    columns = {
        "slices": [case.shape[0] for case in cases],
        "rows": [case.shape[1] for case in cases],
        "columns": [case.shape[2] for case in cases],
        "slice distance, mm": [case.spacing[0] for case in cases],
        "pixel size, mm": [case.spacing[2] for case in cases],
    }
    rows = [(name, *(f"{of(values):.4g}" for of in (min, median, max))) for name, values in columns.items()]
    return Grid(f"Geometries of {count(len(cases), 'image')}", ("", "least", "median", "most"), rows)


def faults(run: Run) -> list[Block]:
    """Return what was found wrong with files."""
    blocks: list[Block] = []
    for table, verb in (("quarantine", "left out"), ("warnings", "warned of")):
        rows = run.rows("cohort", f"{table}.csv") or []
        if not rows:
            blocks.append(Words(f"No case is {verb} because of a fault."))
            continue
        cases = len({row["case"] for row in rows})
        kinds = ", ".join(f"{kind} ({found})" for kind, found in Counter(row["kind"] for row in rows).most_common())
        shown = [(row["case"], row["kind"], row["message"], row["what_to_do"]) for row in rows[:FAULTS_LISTED]]
        more = f"The first {FAULTS_LISTED} of {len(rows)}; cohort/{table}.csv has all."
        notes = [more] if len(rows) > len(shown) else []
        caption = f"{count(cases, 'case')} with faults, {verb}: {kinds}"
        blocks.append(Grid(caption, ("case", "fault", "what was found", "what to do"), shown, notes))
    return blocks


def method(run: Run) -> Section:
    """What was done: the drawing of the configuration."""
    completions = [f"{row.teacher} completes {row.category}" for row in run.config.completions.values()]
    description = "Which model learns from what. " + "; ".join(words(text) for text in completions) + "."
    caption = (
        "The method as it was configured, with the cases that take part. A solid arrow into a model is what it "
        "learns from, one from a model its pseudo-labels; a dotted arrow is labels that a completion keeps."
    )
    return Section("method", "Method", [run.picture("method", description, caption)])


def training(run: Run) -> Section:
    """How the trainings went."""
    rows, pictures, missing = [], [], []
    for model in run.config.models:
        if not run.results.training(model).exists():
            missing.append(model)
            continue
        record = read_json(run.results.training(model))
        seconds = float(record.get("seconds") or 0)
        cells = (record.get("cases"), record.get("epochs"), _duration(seconds), record.get("device"))
        unseen = ", ".join(map(words, record.get("labels_unseen", []))) or "none"
        rows.append((words(model), *("" if cell is None else str(cell) for cell in cells), unseen))
        description = f"Loss and pseudo Dice of {words(model)} by epoch."
        pictures.append(run.picture(f"training/{model}", description, f"Training of {words(model)}."))
    blocks: list[Block] = []
    if rows:
        header = ("model", "cases", "epochs", "time", "device", "labels not seen")
        blocks.append(Grid("Trainings", header, rows))
        if all(row[4] == "cpu" for row in rows):
            blocks.append(Words("No GPU took part: all models were trained on a processor."))
    if missing:
        blocks.append(Words(f"Not trained yet: {', '.join(map(words, missing))}.", missing=True))
    return Section("training", "Training", [*blocks, *pictures])


def pseudo_labels(run: Run) -> Section:
    """How completed labels came about: conflicts, agreement, cases left out."""
    blocks: list[Block] = []
    rows, pictures, missing = [], [], []
    outcomes = [*OUTCOMES_SHOWN, *(TUMOR_OUTCOMES if run.config.label_map.tumors else ())]
    for name in run.config.completions:
        found = run.rows("completed_labels", name, "conflicts.csv")
        if found is None:
            missing.append(name)
            continue
        rows.append((words(name), *_completion_cells(found, outcomes)))
        description = f"Original classes against those predicted, completion {words(name)}, percent of each row."
        pictures.append(
            run.picture(f"pseudo_labels/{name}", description, f"Conflicts of the completion {words(name)}.")
        )
    if rows:
        header = ("completion", "cases", "left out", "agreement of passes", *map(words, outcomes))
        note = "Voxels in percent of all that either side labels. Agreement: Dice of mirrored passes with their mean."
        blocks.append(Grid("Completions", header, rows, [note]))
    if not run.config.completions:
        blocks.append(Words("The configuration completes no labels: there are no pseudo-labels."))
    if missing:
        blocks.append(Words(f"Not completed yet: {', '.join(map(words, missing))}.", missing=True))
    return Section("pseudo-labels", "Pseudo-labels", [*blocks, *pictures])


def _completion_cells(rows: Sequence[Mapping[str, str]], outcomes: Sequence[str]) -> list[str]:
    """Return the cells of a completion: cases, left out, agreement, and shares of outcomes."""
    agreements = [float(row["agreement"]) for row in rows if row.get("agreement")]
    labeled = sum(int(row["voxels"]) - int(row["background"]) for row in rows)
    cells = [str(len(rows)), str(sum(bool(row.get("left_out")) for row in rows))]
    cells.append(f"{100 * fmean(agreements):.1f} %" if agreements else "not measured")
    for outcome in outcomes:
        voxels = sum(_voxels(row, outcome) for row in rows)
        cells.append(f"{100 * voxels / labeled:.1f} %" if labeled else "-")
    return cells


def _voxels(row: Mapping[str, str], outcome: str) -> int:
    return sum(int(value) for key, value in row.items() if key.startswith(f"{outcome}_") and value)


def scores(run: Run) -> Section:
    """How good it is: the tables and the spread over cases."""
    blocks: list[Block] = []
    evaluated = [name for name in run.config.evaluated if run.rows("evaluation", name, "summary.csv") is not None]
    if not run.config.evaluated:
        return Section("results", "Results", [Words(NO_MODEL, missing=True)])
    missing = [name for name in run.config.evaluated if name not in evaluated]
    if missing:
        blocks.append(Words(f"Not evaluated yet: {', '.join(map(words, missing))}.", missing=True))
    for table in ("table6", "table7", "table9"):
        blocks += paper_table(run, table)
    if evaluated:
        description = "DSC and NSD of all models by class; the table above has the numbers."
        blocks.append(run.picture("scores", description, "Mean scores by class."))
    for name in evaluated:
        rows = run.rows("evaluation", name, "metrics.csv") or []
        path = run.figures / "boxes" / f"{name}.svg"
        draw_boxes(path, name, rows, run.config.label_map.names)
        caption = f"Scores of {words(name)} over {count(len(rows), 'case')}: median, quartiles, and values apart."
        blocks.append(Picture(path, f"Box plots of DSC and NSD of {words(name)} by class.", caption))
    return Section("results", "Results", blocks)


def paper_table(run: Run, name: str) -> list[Block]:
    """Return one of the paper's tables as the evaluation set it out; nothing if it has not, or not for this run."""
    evaluation = run.config.evaluation
    if name not in table_names(run.config.label_map, evaluation.compare, evaluation.efficiency_cases > 0):
        return []
    path = run.results.root / "evaluation" / "tables" / f"{name}.md"
    return [read_markdown(path.read_text(encoding="utf-8"))] if path.exists() else []


def read_markdown(text: str) -> Grid:
    """Read a table back that `PaperTable.to_markdown` wrote."""
    lines = [line for line in text.splitlines() if line.strip()]
    table = [line for line in lines if line.startswith("|")]
    cells = [[cell.strip().replace("\0", "|") for cell in _split(line)] for line in table]
    notes = [line for line in lines[1:] if not line.startswith("|")]
    return Grid(lines[0].strip("*"), cells[0], cells[2:], notes)


def _split(line: str) -> list[str]:
    """Split a line of a table at its bars; those that belong to a cell become a zero byte."""
    return line.replace(r"\|", "\0").removeprefix("|").removesuffix("|").split("|")


def efficiency(run: Run) -> Section:
    """What inference takes."""
    if not run.config.evaluated:
        return Section("efficiency", "Efficiency", [Words(NO_MODEL, missing=True)])
    blocks = paper_table(run, "table8")
    for name in run.config.evaluated:
        rows = run.rows("evaluation", name, "efficiency.csv")
        if rows and run.config.evaluation.efficiency_cases:
            blocks += memory(run, name, rows)
    if not blocks:
        text = "Inference was not measured: set evaluation.efficiency_cases to the number of cases to measure."
        blocks.append(Words(text, missing=True))
    timings = {name: mean_timings(run, name) for name in run.config.evaluated}
    timings = {name: table for name, table in timings.items() if table}
    if timings:
        draw_phases(run.figures / "phases.svg", timings)
        listed = "; ".join(
            f"{words(name)}: " + ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in table.items())
            for name, table in timings.items()
        )
        caption = "Mean seconds of each phase of a segmentation in this run, reading and writing apart."
        blocks.append(Picture(run.figures / "phases.svg", f"Phases of a segmentation. {listed}.", caption))
    if run.config.report.inference_benchmark:
        blocks.append(against_nnunet(run, Path(run.config.report.inference_benchmark)))
    return Section("efficiency", "Efficiency", blocks)


def against_nnunet(run: Run, path: Path) -> Picture:
    """Return the phases of one case by nnU-Net's predictor and by ours, from a result of `benchmarks/inference.py`.

    Raises:
        FlareError: the file is not there, or no such result.
    """
    try:
        found = read_json(path)
        sides = {name: found[key]["phases"] for name, key in BENCHMARK_SIDES.items()}
        seconds = {name: found[key]["seconds"] for name, key in BENCHMARK_SIDES.items()}
        measured = f"{words(found['network'])} on {found['device']}, {found['machine']['processor']}, {found['date']}"
    except (KeyError, TypeError) as error:
        raise FlareError(f"{path} is no result of benchmarks/inference.py: {error} is missing in it") from error
    draw_phases(run.figures / "phases_nnunet.svg", sides)
    listed = "; ".join(f"{name}: {value:.1f} s" for name, value in seconds.items())
    caption = f"One case against nnU-Net's predictor, whole processes ({listed}). Measured beforehand: {measured}."
    return Picture(run.figures / "phases_nnunet.svg", f"Phases of one case. {listed}.", caption)


def memory(run: Run, model: str, rows: Sequence[Mapping[str, str]]) -> list[Block]:
    """Return the curves of memory over time of a model's measured cases."""
    folder = run.results.root / "evaluation" / model / CURVES
    curves = {row["Name"]: read_csv(folder / f"{row['Name']}.csv") for row in rows}
    path = run.figures / "memory" / f"{model}.svg"
    draw_memory(path, model, curves)
    blocks: list[Block] = [
        Picture(
            path,
            f"Memory over time of {words(model)}, a line per case.",
            f"Memory over time, {count(len(curves), 'case')}.",
        )
    ]
    if not any(row.get("GPU") for row in rows):
        blocks.append(Words("GPU memory was not measured: no GPU was used for these cases.", missing=True))
    return blocks


def mean_timings(run: Run, model: str) -> dict[str, float]:
    """Return the mean seconds of each phase over a model's predictions; empty if there are none."""
    predicted = run.rows("predictions", model, "predictions.csv") or []
    notes = [run.results.entry(row["file"]).load() for row in predicted]
    timings = [note["results"].get("timings", {}) for note in notes if note]
    phases = dict.fromkeys(phase for table in timings for phase in table)
    return {phase: fmean(table.get(phase, 0.0) for table in timings) for phase in phases}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def stage_times(run: Run) -> Grid | Words:
    """Return the time and memory of each stage from the workflow's benchmark files."""
    folder = run.results.root / "benchmarks"
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        stage, *job = path.relative_to(folder).with_suffix("").parts
        if _is_of_the_run(run, stage, job):
            lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
            whole = [line for line in lines[1:] if len(line) == len(lines[0])]  # a kill may cut the last one
            found.setdefault(stage, []).extend(dict(zip(lines[0], line, strict=True)) for line in whole)
    if not found:
        return Words("The run has left no benchmark files, so times of stages are not known.", missing=True)
    rows = []
    for stage, jobs in found.items():
        most = max(_numbers(jobs, "max_rss"), default=0)
        rows.append((words(stage), str(len(jobs)), _duration(sum(_numbers(jobs, "s"))), f"{most:.0f}"))
    return Grid("Stages", ("stage", "jobs", "time of all jobs", "most memory, MB"), rows, ["Of each job's last run."])


def _is_of_the_run(run: Run, stage: str, job: Sequence[str]) -> bool:
    """Say whether a job (name of a model or completion, shard) is one that the configuration still asks for."""
    if stage == "report" or not job:
        return True
    names = run.config.evaluated if stage in OF_EVALUATED else run.config.models
    if job[0] not in (run.config.completions if stage in OF_COMPLETIONS else names):
        return False
    return stage not in SHARDED or job[1].endswith(f"-of-{dict(run.config.shards)[SHARDED[stage][1]]}")


def _numbers(jobs: Iterable[Mapping[str, str]], column: str) -> list[float]:
    return [float(job[column]) for job in jobs if job.get(column) not in (None, "", "NA", "-")]
