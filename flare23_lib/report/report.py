"""The report's page, its figures and the cases of its viewer, from everything that a run has made."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case, read_cases
from flare23_lib.io.label_maps import read_label_map
from flare23_lib.io.nifti import read_volume
from flare23_lib.io.orientation import Orientation
from flare23_lib.labels import IGNORE_VALUE, LabelMap
from flare23_lib.report import sections
from flare23_lib.report.page import Block, Picture, Section, ViewerBlock, Words, write_page
from flare23_lib.report.provenance import provenance
from flare23_lib.report.sections import Run, count
from flare23_lib.report.slices import Shown, draw_case
from flare23_lib.report.style import words
from flare23_lib.report.viewer import ViewerCase, index, write_case
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

EXTREMES = 2
"""How many of the best and of the worst cases are pictured."""

NO_VIEWER = (
    "The report was made without its CT viewer: the viewing library was not installed. `make viewer` fetches it; the "
    "next run of the workflow then adds the viewer."
)


@dataclass(frozen=True)
class ScoredCase:
    """A validation case, its mean DSC over organs, and the file of its prediction."""

    case: Case
    score: float
    prediction: Path


def write_report(results: Results, config: Config, viewer: Path | None, output: Path) -> None:
    """Write the page, figures beside it in `figures`, and cases in `viewer`.

    Args:
        results: the results folder.
        config: the configuration.
        viewer: folder of the viewing library (`make viewer`); None if it is not there.
        output: the page.
    """
    run = Run(results, config, output.parent / "figures")
    shown = [
        sections.cohort(run),
        sections.method(run),
        sections.training(run),
        sections.pseudo_labels(run),
        sections.scores(run),
        sections.efficiency(run),
        *_case_sections(run, viewer, output.parent),
        Section("provenance", "Provenance", [sections.stage_times(run), *provenance(config)]),
    ]
    labels = ", ".join(map(words, config.label_map.names))
    summary = [f"Models: {', '.join(map(words, config.models))}.", f"Labels: {labels}."]
    write_page(output, "Segmentation report", summary, shown)
    log.info("%s", output)


def _case_sections(run: Run, viewer: Path | None, folder: Path) -> list[Section]:
    """Return the best and worst cases and the viewer, of the first evaluated model that has scores."""
    for made_before in (folder / "viewer", run.figures / "cases"):
        shutil.rmtree(made_before, ignore_errors=True)
    model = next((name for name in run.config.evaluated if run.rows("evaluation", name, "metrics.csv")), None)
    if model is None:
        text = sections.NO_MODEL if not run.config.evaluated else "No model has been evaluated yet."
        missing = [Words(text, missing=True)]
        return [Section("cases", "Best and worst cases", missing), Section("viewer-section", "CT viewer", missing)]
    ranked = rank_cases(run, model)
    failed = len(run.rows("evaluation", model, "metrics.csv") or []) - len(ranked)
    pictured = [*ranked[:EXTREMES], *ranked[EXTREMES:][-EXTREMES:]]
    in_viewer = spread(ranked, run.config.report.viewer_cases) if viewer else []
    blocks, entries = _draw_cases(run, folder, pictured, in_viewer)
    intro = Words(f"{words(model).capitalize()}, by the mean DSC of the organs; each at the slice that shows most.")
    if failed:
        text = f"Not shown for want of a score or a sound prediction (metrics.csv says why): {count(failed, 'case')}."
        blocks.append(Words(text, missing=True))
    if not ranked:
        intro = Words("No case has both a prediction and a score.", missing=True)
    return [
        Section("cases", "Best and worst cases", [intro, *blocks]),
        Section("viewer-section", "CT viewer", [_viewer_block(run, viewer, folder, entries)]),
    ]


def rank_cases(run: Run, model: str) -> list[ScoredCase]:
    """Return a model's cases that were scored without fault, the best first."""
    cases = {case.case: case for case in read_cases(run.results.cases)}
    files = {row["case"]: row["file"] for row in run.rows("predictions", model, "predictions.csv") or []}
    ranked = []
    for row in run.rows("evaluation", model, "metrics.csv") or []:
        score = mean_score(row, run.config.label_map)
        if row["status"] == "ok" and row["Name"] in files and score is not None:
            ranked.append(ScoredCase(cases[row["Name"]], score, run.results.file(files[row["Name"]])))
    return sorted(ranked, key=lambda scored: (-scored.score, scored.case.case))


def mean_score(row: Mapping[str, str], labels: LabelMap) -> float | None:
    """Return a case's mean DSC over the organs, or over all labels where none is an organ; None without any."""
    cells = [row.get(f"{label.name}_DSC") for label in labels.organs or labels.labels]
    values = [float(cell) for cell in cells if cell]
    return fmean(values) if values else None


def spread(ranked: Sequence[ScoredCase], most: int) -> list[ScoredCase]:
    """Return at most so many cases, evenly over the ranks; of two and more the best and the worst are among them."""
    if most <= 0 or len(ranked) <= most:
        return list(ranked) if most > 0 else []
    if most == 1:
        return [ranked[0]]
    return [ranked[round(place * (len(ranked) - 1) / (most - 1))] for place in range(most)]


def _draw_cases(
    run: Run, folder: Path, pictured: Sequence[ScoredCase], in_viewer: Sequence[ScoredCase]
) -> tuple[list[Block], list[dict[str, str]]]:
    """Read each case once; return pictures and the viewer's list, the best first."""
    blocks: list[Block] = []
    entries = []
    labels = run.config.label_map
    wanted = {scored.case.case: scored for scored in [*pictured, *in_viewer]}
    for scored in progress(sorted(wanted.values(), key=lambda item: (-item.score, item.case.case))):
        case = read_case(scored, labels)
        if scored in pictured:
            path = run.figures / "cases" / f"{case.name}.svg"
            draw_case(path, _turned(case), labels.names)
            text = f"{case.name}: mean DSC {100 * case.score:.2f} %."
            blocks.append(
                Picture(path.with_suffix(".png"), f"Image, reference, prediction and errors of {text}", text)
            )
        if scored in in_viewer:
            file = f"viewer/cases/{len(entries):03d}.js"
            write_case(folder / file, case)
            entries.append({"name": case.name, "score": f"{100 * case.score:.2f} %", "file": file})
    return blocks, entries


def read_case(scored: ScoredCase, labels: LabelMap) -> ViewerCase:
    """Read a case's image, reference and prediction."""
    image = read_volume(scored.case.image)
    reference, prediction = (read_label_map(label).array for label in (scored.case.label_files, scored.prediction))
    reference, prediction = (
        labels.to_indices(np.where(array == IGNORE_VALUE, 0, array)) for array in (reference, prediction)
    )
    return ViewerCase(scored.case.case, scored.score, image.array, reference, prediction, image.geometry)


def _turned(case: ViewerCase) -> Shown:
    """Return a case as it is pictured, turned to LPS."""
    orientation = Orientation.of(case.geometry.affine, "canonical")
    arrays = (orientation.forward(array) for array in (case.image, case.reference, case.prediction))
    spacing = orientation.spacing(case.geometry.spacing)
    return Shown(case.name, f"mean DSC {100 * case.score:.2f} %", *arrays, spacing)


def _viewer_block(run: Run, viewer: Path | None, folder: Path, entries: Sequence[Mapping[str, str]]) -> Block:
    """Put the viewing library beside the page and return the viewer, or words in its place."""
    if viewer is None:
        return Words(NO_VIEWER, missing=True)
    if not entries:
        return Words(
            "There is no case for the viewer: `report.viewer_cases` is 0, or no case was scored.", missing=True
        )
    target = folder / "viewer" / "niivue.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(viewer / "niivue.js", target)
    text = (viewer / "LICENSE.txt").read_text(encoding="utf-8").splitlines()[0]
    return ViewerBlock("viewer/niivue.js", text, index(run.config.label_map, entries))
