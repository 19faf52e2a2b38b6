import itertools

import numpy as np
import pandas as pd
import pytest
from reports import svg_texts
from skimage.color import deltaE_ciede2000

from flare23_lib.colors import LABEL_COLORS, label_colors
from flare23_lib.evaluation.tables import ORGANS, UNSEEN
from flare23_lib.report.scores import NO_VALUE, draw_scores
from flare23_lib.report.style import INK, MODEL_COLORS

# The scores


def summary(unseen=(), empty=(), **means):
    rows = []
    for name in ("liver", "inferior_vena_cava", ORGANS, "tumor"):
        value = "" if name in unseen or name in empty else str(means.get(name, 0.9))
        kind = {ORGANS: ORGANS, "tumor": "tumor"}.get(name, "organ")
        note = UNSEEN if name in unseen else ""
        rows.append({"class": name, "kind": kind, "cases": "5", "DSC_mean": value, "NSD_mean": value, "note": note})
    return rows


CASES = pd.DataFrame({"liver_DSC": ["0.8", "0.9", ""], "liver_NSD": ["0.7", "", "0.9"]})


def draw(path, summaries):
    tables = {model: pd.DataFrame(rows) for model, rows in summaries.items()}
    draw_scores(path, tables, dict.fromkeys(summaries, CASES))


def score_texts(summaries, folder):
    path = folder / "scores.svg"
    draw(path, summaries)
    return [text.text for text in svg_texts(path)]


def test_the_figure_names_classes_measures_and_models_and_gives_the_values(tmp_path):
    texts = score_texts({"student": summary(liver=0.9712), "student_2200": summary(liver=0.8)}, tmp_path)
    assert {"DSC", "NSD", "liver", "inferior vena cava", "organs, mean", "tumor", "0.971", "0.800"} < set(texts)
    assert {"student", "student 2200"} < set(texts)


def test_means_are_written_in_the_color_of_text(tmp_path):
    path = tmp_path / "scores.svg"
    draw(path, {"student": summary(), "student_2200": summary()})
    styles = [text.get("style") for text in svg_texts(path) if text.text == "0.900"]
    assert len(styles) == 16
    assert all(f"fill: {INK}" in style for style in styles)


def test_a_class_that_a_model_never_saw_is_marked_so_in_both_panels(tmp_path):
    texts = score_texts({"organ_teacher": summary(unseen=["tumor"]), "student": summary()}, tmp_path)
    assert texts.count(UNSEEN) == 2


def test_empty_and_nan_cells_are_no_value(tmp_path):
    rows = summary(empty=["liver"], tumor=float("nan"))
    texts = score_texts({"student": rows}, tmp_path)
    assert texts.count(NO_VALUE) == 4
    assert "nan" not in texts


def test_a_summary_without_any_number_is_drawn(tmp_path):
    names = ["liver", "inferior_vena_cava", ORGANS, "tumor"]
    assert score_texts({"student": summary(empty=names)}, tmp_path).count(NO_VALUE) == 8


def test_a_note_stands_beside_its_score(tmp_path):
    rows = summary()
    rows[2]["note"] = "mean of 1 of 2 organs"
    assert "mean of 1 of 2 organs" in score_texts({"student": rows}, tmp_path)


def test_tumors_stand_below_the_mean_of_the_organs(tmp_path):
    rows = summary()
    texts = score_texts({"student": [rows[3], *rows[:3]]}, tmp_path)
    names = [text for text in texts if text in {"liver", "organs, mean", "tumor"}]
    assert names == ["liver", "organs, mean", "tumor"]


def test_single_cases_are_drawn_in_the_color_of_their_model(tmp_path):
    paths = []
    for cases in (CASES, CASES[:0]):
        paths.append(tmp_path / f"{len(cases)}.svg")
        draw_scores(paths[-1], {"student": pd.DataFrame(summary())}, {"student": cases})
    with_boxes, without = (path.read_text().count(MODEL_COLORS[0]) for path in paths)
    assert with_boxes > without > 0


# Colors

SIGHTS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def in_cielab(color, sight):
    srgb = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(SIGHTS[sight]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(to_xyz @ seen / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("colors", [LABEL_COLORS, MODEL_COLORS], ids=["labels", "models"])
def test_colors_stay_apart_for_everyone(colors, sight):
    seen = [in_cielab(color, sight) for color in colors]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


@pytest.mark.parametrize("colors", [LABEL_COLORS, MODEL_COLORS], ids=["labels", "models"])
def test_colors_stay_apart_by_ciede2000(colors):
    seen = [in_cielab(color, "normal") for color in colors]
    assert min(deltaE_ciede2000(a, b) for a, b in itertools.combinations(seen, 2)) > 12


def test_a_class_has_the_color_of_its_place_in_the_label_map():
    names = [f"organ_{number}" for number in range(25)]
    colors = label_colors(names)
    assert [colors[name] for name in names[:20]] == list(LABEL_COLORS)
    assert colors["organ_20"] == LABEL_COLORS[0]
