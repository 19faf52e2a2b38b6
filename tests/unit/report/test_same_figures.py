"""Figures have no date and no chance in them: a run that changes nothing changes no file of the report."""

import re

import pandas as pd
import pytest
from places import RECIPE

from flare23_lib.config import Config
from flare23_lib.dataset import flare23
from flare23_lib.dataset.summary import CATEGORY_COLUMNS
from flare23_lib.report.cohort import draw_cohort
from flare23_lib.report.conflicts import draw_conflicts
from flare23_lib.report.method import draw_method, method_graph
from flare23_lib.report.scores import draw_scores
from flare23_lib.report.training import draw_training

CATEGORIES = pd.DataFrame(
    [("training", "tumor", present, str(cases), "0", "0") for present, cases in (("all", 9), ("1", 4), ("1 14", 5))],
    columns=CATEGORY_COLUMNS,
)
CONFUSION = pd.DataFrame({"original": ["tumor", "background"], "predicted": ["tumor", "liver"], "voxels": ["7", "3"]})
SUMMARY = pd.DataFrame(
    [("liver", "organ", "5", "0.9", "0.8", ""), ("tumor", "tumor", "5", "", "", "")],
    columns=["class", "kind", "cases", "DSC_mean", "NSD_mean", "note"],
)
CASES = pd.DataFrame({"liver_DSC": ["0.8", "0.9", ""], "liver_NSD": ["0.7", "", "0.9"]})
EPOCHS = pd.DataFrame(
    [("1", "0.5", "0.4", "0.3", "0.3")],
    columns=["epoch", "train_loss", "validation_loss", "pseudo_dice", "pseudo_dice_liver"],
)
FIGURES = {
    "cohort": lambda path: draw_cohort(path, CATEGORIES, {"liver": 1, "tumor": 14}),
    "conflicts": lambda path: draw_conflicts(path, "title", CONFUSION, ["liver", "tumor"]),
    "method": lambda path: draw_method(path, method_graph(Config.load([RECIPE]).method_settings(), flare23.CASES)),
    "scores": lambda path: draw_scores(path, {"student": SUMMARY}, {"student": CASES}),
    "training": lambda path: draw_training(path, "student", EPOCHS),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_the_same_input_gives_the_same_bytes_without_a_date(tmp_path, draw):
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for path in (first, second):
        draw(path)
        assert path.with_suffix(".png").is_file()
    assert first.read_bytes() == second.read_bytes()
    assert not re.search(r"\b20\d\d-\d\d-\d\d", first.read_text())
