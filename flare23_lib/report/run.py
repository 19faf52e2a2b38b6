"""What the results folder of a run holds, as the page shows it: tables, and what is known of models and stages."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flare23_lib.cache.results import SHARDED, Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import read_cases
from flare23_lib.dataset.summary import ALL
from flare23_lib.evaluation.paper_tables import table_names
from flare23_lib.evaluation.tables import read_table
from flare23_lib.io.atomic import read_json, read_text
from flare23_lib.pseudo_labels.merge import OUTCOMES
from flare23_lib.report.style import count, display_name
from flare23_lib.runtime.machine import package_version
from flare23_lib.runtime.progress import duration

MAX_ISSUES = 50
"""Quality issues that the page lists one by one; the tables of the cohort have all."""

OF_COMPLETIONS = ("pseudo_label", "complete", "gather_completed")
OF_EVALUATED = ("predict", "gather_predictions", "evaluate", "measure_efficiency")
"""Rules whose jobs are named after a completion, and after a model that is evaluated; the others' after a model."""

PACKAGES = ("flare23_lib", "torch", "nnunetv2", "snakemake", "numpy", "nibabel")


@dataclass(frozen=True)
class PageTable:
    """A table with a caption and notes below; the first column is the head of each row."""

    caption: str
    cells: pd.DataFrame
    notes: Sequence[str] = ()

    @property
    def is_text(self) -> list[bool]:
        """Whether a column has words, which begin at the left; numbers end at the right."""
        return [any(str(cell)[:1].isalpha() for cell in column) for _, column in self.cells.items()]


@dataclass(frozen=True)
class Run:
    """A run to report on: its results folder and its configuration."""

    results: Results
    config: Config

    def table(self, *parts: str) -> pd.DataFrame | None:
        """Return a table of the results folder as text; None if it is missing."""
        path = self.results.root.joinpath(*parts)
        return read_table(path, as_text=True) if path.exists() else None

    def categories(self) -> PageTable | None:
        """Return the cases by category; None if the cohort was not scanned."""
        table = self.table("cohort", "categories.csv")
        if table is None:
            return None
        table = table[table["labels_present"] == ALL]
        names = table["category"].where(table["category"] != "", table["split"]).map(display_name)
        columns = ["category", "split", "cases", "quarantined"]
        return PageTable("Cases by category", table.assign(category=names)[columns])

    def sources(self) -> PageTable | None:
        """Return what each label looks like in each source, a label's rows together; None with a single source."""
        table = self.table("cohort", "sources.csv")
        if table is None:
            return None
        names = {"label": "label", "source": "source", "cases": "cases", "ml": "volume, ml", "hu": "HU",
                 "right_mm": "to the right, mm", "front_mm": "to the front, mm"}  # fmt: skip
        cells = table.assign(label=table["label"].map(display_name))[list(names)].rename(columns=names)
        note = "Medians of the cases that have the label; positions are from the center of the image."
        return PageTable("Labels by source", cells, [note])

    def geometries(self) -> PageTable | None:
        """Return sizes and spacings of the images; None if no header could be read."""
        cases = read_cases(self.results.cases)
        sizes = [(*case.shape, *case.spacing) for case in cases if case.shape and case.spacing]
        columns = [what.format(axis) for what in ("voxels along {}", "spacing along {}, mm") for axis in "zyx"]
        cells = pd.DataFrame(sizes, columns=columns).agg(["min", "median", "max"]).T
        cells = cells.map("{:.4g}".format).reset_index(names="")
        note = "Axes are as stored: x is the first of a file, z the last."
        return PageTable(f"Geometries of {count(len(sizes), 'image')}", cells, [note]) if sizes else None

    def issues(self, severity: str) -> PageTable | None:
        """Return the quality issues of a severity, "quarantine" or "warnings"; None if there are none."""
        table = self.table("cohort", f"{severity}.csv")
        if table is None or table.empty:
            return None
        kinds = ", ".join(f"{kind} ({number})" for kind, number in table["kind"].value_counts().items())
        caption = f"{severity.capitalize()}: {count(table['case'].nunique(), 'case')} with {kinds}"
        names = {"case": "case", "kind": "issue", "message": "what was found", "what_to_do": "what to do"}
        note = f"The first {MAX_ISSUES} of {len(table)}; cohort/{severity}.csv has all."
        notes = [note] if len(table) > MAX_ISSUES else []
        return PageTable(caption, table[list(names)][:MAX_ISSUES].rename(columns=names), notes)

    def trained(self) -> list[str]:
        """Return the models whose training has finished."""
        return [model for model in self.config.models if self.results.training(model).exists()]

    def trainings(self) -> PageTable:
        """Return the trainings that have finished."""
        rows = []
        for model in self.trained():
            record = read_json(self.results.training(model))
            unseen = ", ".join(map(display_name, record.get("labels_unseen", []))) or "none"
            time = duration(record["seconds"])
            rows.append((display_name(model), record["cases"], record["epochs"], time, record["device"], unseen))
        columns = ["model", "cases", "epochs", "time", "device", "labels not seen"]
        return PageTable("Trainings", pd.DataFrame(rows, columns=columns))

    def completed(self) -> dict[str, pd.DataFrame]:
        """Return conflicts.csv of the completions that have finished."""
        found = {name: self.table("completed_labels", name, "conflicts.csv") for name in self.config.completions}
        return {name: table for name, table in found.items() if table is not None}

    def completions(self) -> PageTable:
        """Return what the completions that have finished did with the voxels."""
        tumors = bool(self.config.label_map.tumors)
        outcomes = [name for name in OUTCOMES if name != "agreed" and (tumors or "tumor" not in name)]
        rows = []
        for name, table in self.completed().items():
            numbers = table.apply(pd.to_numeric, errors="coerce")
            labeled = numbers["voxels"].sum() - numbers["background"].sum()
            agreement = numbers["agreement"].mean()
            voxels = [numbers.filter(regex=f"^{outcome}_").sum().sum() for outcome in outcomes]
            rows.append(
                [
                    display_name(name),
                    len(table),
                    "not measured" if pd.isna(agreement) else f"{100 * agreement:.1f} %",
                    *(f"{100 * number / labeled:.1f} %" if labeled else "-" for number in voxels),
                ]
            )
        columns = ["completion", "cases", "agreement of passes", *map(display_name, outcomes)]
        note = "Voxels in percent of all that either side labels. Agreement: Dice of mirrored passes with their mean."
        return PageTable("Completions", pd.DataFrame(rows, columns=columns), [note])

    def paper_tables(self, *names: str) -> list[PageTable]:
        """Return those of the paper's tables that belong to this run and were made."""
        evaluation = self.config.evaluation
        possible = table_names(self.config.label_map, evaluation.compare, evaluation.efficiency_cases > 0)
        paths = [self.results.root / "evaluation" / "tables" / f"{name}.md" for name in names if name in possible]
        return [read_markdown(read_text(path)) for path in paths if path.exists()]

    def mean_timings(self, model: str) -> dict[str, float]:
        """Return the mean seconds of each phase over a model's predictions; empty without any."""
        table = self.table("predictions", model, "predictions.csv")
        files = [] if table is None else table["file"]
        notes = [note for file in files if (note := self.results.entry(file).load())]
        return pd.DataFrame([note["results"].get("timings", {}) for note in notes]).fillna(0).mean().to_dict()

    def stages(self) -> PageTable | None:
        """Return the time and memory of each stage from the workflow's benchmark files; None without any."""
        folder = self.results.root / "benchmarks"
        jobs = []
        for path in sorted(folder.rglob("*.tsv")):
            stage, *job = path.relative_to(folder).with_suffix("").parts
            if self._has_job(stage, job) and path.stat().st_size:
                table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
                whole = table[table.iloc[:, -1] != ""]  # a kill may cut the last line, or leave an empty file
                jobs.append(whole.assign(stage=display_name(stage)))
        if not jobs:
            return None
        numbers = pd.concat(jobs).set_index("stage")[["s", "max_rss"]].apply(pd.to_numeric, errors="coerce")
        stages = numbers.groupby("stage", sort=False)
        cells = {
            "jobs": stages.size(),
            "time of all jobs": stages["s"].sum().map(duration),
            "peak memory, MB": stages["max_rss"].max().fillna(0).map("{:.0f}".format),
        }
        return PageTable("Stages", pd.DataFrame(cells).reset_index(), ["The last run of each job."])

    def _has_job(self, stage: str, job: Sequence[str]) -> bool:
        """Whether a job (name of a model or completion, shard) is one that the configuration still asks for."""
        if stage == "report" or not job:
            return True
        config = self.config
        models = config.evaluated if stage in OF_EVALUATED else config.models
        if job[0] not in (config.completions if stage in OF_COMPLETIONS else models):
            return False
        return stage not in SHARDED or job[1].endswith(f"-of-{dict(config.shards)[SHARDED[stage][1]]}")


def read_markdown(text: str) -> PageTable:
    """Read a table back that the evaluation wrote: a bold title, the table, and notes."""
    title, *lines = [line for line in text.splitlines() if line.strip()]
    rows = [line.replace(r"\|", "\0").strip("|").split("|") for line in lines if line.startswith("|")]
    header, _, *cells = [[cell.strip().replace("\0", "|") for cell in row] for row in rows]
    notes = [line for line in lines if not line.startswith("|")]
    return PageTable(title.strip("*"), pd.DataFrame(cells, columns=header), notes)


def versions() -> PageTable:
    """Return the versions of Python and packages, and the commit of the library."""
    installed = [(name, package_version(name) or "not installed") for name in PACKAGES]
    rows = [("Python", platform.python_version()), *installed]
    rows.append(("commit", commit(Path(__file__).parents[2])))
    return PageTable("Versions", pd.DataFrame(rows, columns=["", "version"]))


def commit(folder: Path) -> str:
    """Return the commit of a working tree, and whether it was changed since; or that it is not known."""
    options = ["--always", "--abbrev=40", "--exclude=*", "--dirty=, with changes"]
    command = ["git", "-C", str(folder), "describe", *options]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not known: the library is not in a git repository"
