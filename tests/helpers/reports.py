"""A small finished run, made by hand in a moment, for tests of the report: no training, no workflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from places import RECIPE, REPOSITORY

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.dataset.summary import ALL
from flare23_lib.evaluation.evaluate import evaluate
from flare23_lib.io.atomic import write_json
from flare23_lib.io.identity import file_identity
from flare23_lib.io.nifti import header_for, write_volume
from flare23_lib.io.tables import write_csv
from flare23_lib.report.page import write_report
from flare23_lib.report.style import STYLE


def drawn(monkeypatch) -> list[Figure]:
    """Return a list that gets every figure of the report that is drawn from now on."""
    figures: list[Figure] = []

    def make(**options: Any) -> Figure:
        figures.append(Figure(**options))
        return figures[-1]

    monkeypatch.setattr("flare23_lib.report.style.Figure", make)
    return figures


def cut_off(figures: Sequence[Figure]) -> list[str]:
    """Return what of legends, titles and notes is not wholly within its figure."""
    found = []
    for figure in figures:
        with matplotlib.style.context(STYLE):
            figure.draw_without_rendering()
        width, height = figure.bbox.size
        for artist in filter(None, (*figure.legends, figure._suptitle, figure._supxlabel)):
            box = artist.get_window_extent()
            if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
                found.append(f"{artist}: {box} in {width} x {height}")
    return found


def svg_texts(path: Path) -> list[ElementTree.Element]:
    """Return the texts of a figure, in its order, as elements."""
    return list(ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text"))


SHAPE, SPACING = (6, 16, 20), (5.0, 2.0, 2.0)
FAULT = {"case": "Broken", "file": "broken.nii.gz", "kind": "cannot_be_read", "message": "ends <early>",
         "what_to_do": "copy it again"}  # fmt: skip


def configuration(*files: str, **changes) -> Config:
    """Return the recipe's configuration with test files on top of it, without ablation and without comparison."""
    changes = {"evaluation": {"compare": []}, "models": {"student_2200": None}, **changes}
    return Config.load([RECIPE, *(REPOSITORY / "tests" / file for file in files)], changes)


def finished_run(
    folder: Path, config: Config, validation: int = 3, labeled: bool = True, faults: bool = False
) -> Results:
    """Write a results folder as a run leaves it, with predictions that are worse from case to case."""
    results = Results(folder / "results")
    labels = config.label_map
    cases, predictions = [], []
    for number in range(validation):
        name = f"Case_{number}"
        reference = _boxes(labels.values, 0)
        paths = [folder / f"{name}_{kind}.nii.gz" for kind in ("image", "label")]
        prediction = results.root / f"store/segmentations/made/{name}.{number:012x}.nii.gz"
        image = np.where(reference > 0, 60, -900).astype(np.int16)
        for path, array in ((paths[0], image), (paths[1], reference), (prediction, _boxes(labels.values, number))):
            path.parent.mkdir(parents=True, exist_ok=True)
            affine = np.diag([*SPACING[::-1], 1.0])
            write_volume(path, array, header_for(array.shape, affine, array.dtype))
        results.entry(results.relative(prediction)).save([".nii.gz"], {})
        voxels = dict.fromkeys(labels.values, 8) if labeled else {}
        label, identity = (str(paths[1]), file_identity(paths[1])) if labeled else (None, "")
        cases.append(
            Case(name, str(paths[0]), label, "validation", voxels, shape=SHAPE, spacing=SPACING, label_id=identity)
        )
        predictions.append({"case": name, "file": results.relative(prediction)})
    write_cases(results.cases, cases)
    rows = [("training", category.name, 2, 0) for category in config.categories] + [("validation", "", validation, 0)]
    table = [
        {"split": split, "category": name, "labels_present": ALL, "cases": number, "quarantined": left, "voxels": 1}
        for split, name, number, left in rows
    ]
    write_csv(results.cases.with_name("categories.csv"), list(table[0]), table)
    write_csv(results.cases.with_name("quarantine.csv"), list(FAULT), [FAULT] * faults)
    for model in config.models:
        record = {"cases": 4, "epochs": 2, "seconds": 3.0, "device": "cpu", "labels_unseen": []}
        write_json(results.training(model), record)
    for model in config.evaluated if labeled else []:
        write_csv(results.collected("predictions", model), ["case", "file"], predictions)
        own = results.root / "evaluation" / model
        evaluate(results, model, config.evaluation_settings(), own)
    return results


def _boxes(values: list[int], shift: int) -> np.ndarray:
    """Return a volume with a box of 2 x 2 x 2 for each value, moved along x."""
    volume = np.zeros(SHAPE, dtype=np.uint8)
    for index, value in enumerate(values):
        y, x = 1 + 3 * (index // 5), 1 + 3 * (index % 5) + shift
        volume[2:4, y : y + 2, x : x + 2] = value
    return volume


def report_of(results: Results, config: Config, viewer: Path | None = None) -> Path:
    """Make the report and return its page."""
    page = results.root / "report" / "index.html"
    write_report(results, config, viewer, page)
    return page


def stand_in(folder: Path) -> Path:
    """Return a folder that looks like the fetched viewing library, for tests that do not draw."""
    folder.mkdir()
    (folder / "niivue.js").write_text("var niivue;")
    (folder / "LICENSE.txt").write_text("NiiVue 0.0, license BSD-2-Clause.\n")
    return folder
