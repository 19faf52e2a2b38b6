import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from flare23_lib.config import Config
from flare23_lib.evaluation.tables import ORGANS, UNSEEN
from flare23_lib.report.colors import LABEL_COLORS, MODEL_COLORS, label_colors, model_colors
from flare23_lib.report.method import draw_method, draw_recipe
from flare23_lib.report.method.__main__ import main
from flare23_lib.report.method.placement import lay_out
from flare23_lib.report.scores import NO_VALUE, draw_scores, read_scores

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"

RECIPE = {
    "categories": ["tumor", "all_organs", "five_organs", "unlabeled"],
    "completions": {
        "tumor": {"category": "tumor", "teacher": "organ_teacher"},
        "all_organs": {"category": "all_organs", "teacher": "tumor_teacher"},
        "five_organs": {"category": "five_organs", "teacher": "tumor_teacher"},
        "unlabeled": {"category": "unlabeled", "teacher": "tumor_teacher"},
    },
    "train_on": {
        "organ_teacher": {"originals": ["all_organs"], "completions": []},
        "tumor_teacher": {"originals": [], "completions": ["tumor"]},
        "student": {"originals": [], "completions": ["tumor", "all_organs", "five_organs", "unlabeled"]},
    },
    "counts": {"tumor": 1497, "all_organs": 250, "five_organs": 453, "unlabeled": 1800},
}

ONE_TEACHER = {
    "categories": ["liver", "tumor", "unlabeled"],
    "completions": {"everything": {"category": "unlabeled", "teacher": "teacher"}},
    "train_on": {
        "teacher": {"originals": ["liver", "tumor"]},
        "student": {"originals": ["liver", "tumor"], "completions": ["everything"]},
    },
    "counts": {"liver": 12, "tumor": 1},
}

SECOND_LOOK = {
    **RECIPE,
    "completions": {
        **RECIPE["completions"],
        "tumor_again": {"category": "tumor", "on_top_of": "tumor", "teacher": "tumor_teacher"},
    },
    "train_on": {
        **RECIPE["train_on"],
        "student": {"completions": ["tumor_again", "all_organs", "five_organs", "unlabeled"]},
    },
}

LONG = "_with_a_rather_long_name_of_many_words"

LONG_NAMES = {
    "categories": ["category" + LONG, "pneumonoultramicroscopicsilicovolcanoconiosis"],
    "completions": {"completion" + LONG: {"category": "category" + LONG, "teacher": "teacher" + LONG}},
    "train_on": {
        "teacher" + LONG: {"originals": ["pneumonoultramicroscopicsilicovolcanoconiosis"]},
        "student" + LONG: {"completions": ["completion" + LONG]},
    },
    "counts": {"category" + LONG: 123456},
}


def many_rounds(categories=8, rounds=3):
    names = [f"c{number}" for number in range(categories)]
    completions, train_on = {}, {"t0": {"originals": names[:3]}}
    for number in range(rounds):
        for name in names:
            base = {"on_top_of": f"{name}_{number - 1}"} if number else {}
            completions[f"{name}_{number}"] = {"category": name, "teacher": f"t{number}", **base}
        train_on[f"t{number + 1}"] = {"completions": [f"{name}_{number}" for name in names]}
    return {"categories": names, "completions": completions, "train_on": train_on, "counts": {}}


CONFIGURATIONS = {
    "recipe": RECIPE,
    "one_teacher": ONE_TEACHER,
    "second_look": SECOND_LOOK,
    "long_names": LONG_NAMES,
    "many_rounds": many_rounds(),
}

every_configuration = pytest.mark.parametrize("tables", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


def drawn(tables, folder):
    path = folder / "method.svg"
    draw_method(path, **tables)
    return ElementTree.parse(path).getroot()


def boxes_in(root, kind):
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class") == kind]
    return [" ".join(text.text for text in group.iter(f"{SVG}text")) for group in groups]


def titles_in(root):
    return [path.find(f"{SVG}title").text for path in root.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None]


def gap(a, b):
    """Return how far two boxes are apart; negative if they overlap."""
    across = max(a.x, b.x) - min(a.x + a.width, b.x + b.width)
    down = max(a.y, b.y) - min(a.y + a.height, b.y + b.height)
    return max(across, down)


def points_on(route, steps=20):
    for x0, y0, x1, y1 in route.curves:
        for t in np.linspace(0, 1, steps):
            rise = 3 * (1 - t) * t**2 + t**3
            run = 1.5 * (1 - t) ** 2 * t + 1.5 * (1 - t) * t**2 + t**3
            yield x0 + (x1 - x0) * run, y0 + (y1 - y0) * rise
    for (*_, x0, y0), (x1, y1, *_) in itertools.pairwise(route.curves):
        for t in np.linspace(0, 1, steps):
            yield x0 + (x1 - x0) * t, y0 + (y1 - y0) * t


# The method


@every_configuration
def test_the_drawing_is_well_formed_and_has_a_box_for_every_name(tables, tmp_path):
    root = drawn(tables, tmp_path)
    assert root.tag == f"{SVG}svg"
    assert len(boxes_in(root, "category")) == len(tables["categories"])
    assert len(boxes_in(root, "completion")) == len(tables["completions"])
    assert len(boxes_in(root, "model")) == len(tables["train_on"])


def test_boxes_hold_names_and_numbers_of_cases(tmp_path):
    root = drawn(RECIPE, tmp_path)
    assert sorted(boxes_in(root, "category")) == [
        "all organs 250 cases",
        "five organs 453 cases",
        "tumor 1,497 cases",
        "unlabeled 1,800 cases",
    ]
    assert sorted(boxes_in(root, "completion")) == [
        "completed labels: all organs 250 cases",
        "completed labels: five organs 453 cases",
        "completed labels: tumor 1,497 cases",
        "completed labels: unlabeled 1,800 cases",
    ]
    assert sorted(boxes_in(root, "model")) == [
        "organ teacher learns from 250 cases",
        "student learns from 4,000 cases",
        "tumor teacher learns from 1,497 cases",
    ]


def test_a_category_without_cases_counts_as_none(tmp_path):
    root = drawn(ONE_TEACHER, tmp_path)
    assert {"tumor 1 case", "unlabeled 0 cases"} < set(boxes_in(root, "category"))
    assert "student learns from 13 cases" in boxes_in(root, "model")


def test_every_relation_of_the_tables_is_an_arrow(tmp_path):
    assert sorted(titles_in(drawn(SECOND_LOOK, tmp_path))) == sorted(
        [
            "all organs to organ teacher: learns from original labels",
            "tumor to tumor: cases, original labels kept",
            "organ teacher to tumor: pseudo-labels",
            "tumor to tumor teacher: learns from completed labels",
            "tumor to tumor again: built on top of",
            "tumor teacher to tumor again: pseudo-labels",
            "tumor again to student: learns from completed labels",
            *(
                sentence
                for name in ("all organs", "five organs", "unlabeled")
                for sentence in (
                    f"{name} to {name}: cases, original labels kept",
                    f"tumor teacher to {name}: pseudo-labels",
                    f"{name} to student: learns from completed labels",
                )
            ),
        ]
    )


@every_configuration
def test_no_two_boxes_overlap_and_none_is_cut_off(tables):
    layout = lay_out(**tables)
    assert all(gap(a, b) >= 16 for a, b in itertools.combinations(layout.boxes, 2))
    for box in layout.boxes:
        assert box.x >= 0 and box.x + box.width <= layout.width
        assert box.y >= 0 and box.y + box.height <= layout.height


@every_configuration
def test_no_arrow_runs_through_a_box(tables):
    layout = lay_out(**tables)
    for route in layout.routes:
        for x, y in points_on(route):
            assert 0 <= y <= layout.height
            assert not any(
                box.x + 0.5 < x < box.x + box.width - 0.5 and box.y - 2 < y < box.y + box.height + 2
                for box in layout.boxes
            )


@every_configuration
def test_every_arrow_leads_from_its_source_rightwards_to_its_target(tables):
    layout = lay_out(**tables)
    boxes = {box.node: box for box in layout.boxes}
    for route in layout.routes:
        source, target = boxes[route.edge.source], boxes[route.edge.target]
        assert route.curves[0][0] == source.x + source.width < route.curves[-1][2] == target.x
        assert source.y < route.curves[0][1] < source.y + source.height
        assert target.y < route.curves[-1][3] < target.y + target.height


@every_configuration
def test_the_same_tables_give_the_same_bytes(tables, tmp_path):
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw_method(first, **tables)
    draw_method(second, **tables)
    assert first.read_bytes() == second.read_bytes()


def test_the_legend_explains_only_what_occurs(tmp_path):
    texts = {text.text for text in drawn(ONE_TEACHER, tmp_path).iter(f"{SVG}text")}
    assert "pseudo-labels" in texts
    assert "built on top of" not in texts


def test_the_picture_in_the_documentation_is_current(tmp_path):
    """Renew it with `python -m flare23_lib.report.method config.yaml docs/method.svg`."""
    draw_recipe(tmp_path / "method.svg", Config.load([ROOT / "config.yaml"]))
    assert (ROOT / "docs" / "method.svg").read_text() == (tmp_path / "method.svg").read_text()


def test_the_picture_in_the_documentation_can_be_drawn_by_command(tmp_path):
    main([str(ROOT / "config.yaml"), str(tmp_path / "method.svg")])
    assert "learns from" in (tmp_path / "method.svg").read_text()


# The scores


def summary(unseen=(), empty=(), **means):
    rows = []
    for name in ("liver", "inferior_vena_cava", ORGANS, "tumor"):
        value = "" if name in unseen or name in empty else str(means.get(name, 0.9))
        kind = {ORGANS: ORGANS, "tumor": "tumor"}.get(name, "organ")
        note = UNSEEN if name in unseen else ""
        rows.append({"class": name, "kind": kind, "cases": "5", "DSC_mean": value, "NSD_mean": value, "note": note})
    return rows


def score_texts(summaries, folder):
    path = folder / "scores.svg"
    draw_scores(path, summaries)
    return [text.text for text in ElementTree.parse(path).getroot().iter(f"{SVG}text")]


def test_the_figure_names_classes_measures_and_models_and_gives_the_values(tmp_path):
    texts = score_texts({"student": summary(liver=0.9712), "student_2200": summary(liver=0.8)}, tmp_path)
    assert {"DSC", "NSD", "liver", "inferior vena cava", "organs, mean", "tumor", "0.971", "0.800"} < set(texts)
    assert {"student", "student 2200"} < set(texts)


def test_a_class_that_a_model_never_saw_is_marked_so_in_both_panels(tmp_path):
    texts = score_texts({"organ_teacher": summary(unseen=["tumor"]), "student": summary()}, tmp_path)
    assert texts.count(UNSEEN) == 2


def test_empty_and_nan_cells_are_no_value(tmp_path):
    rows = summary(empty=["liver"], tumor=float("nan"))
    assert read_scores(rows, "DSC")["liver"].value is None
    assert read_scores(rows, "NSD")["tumor"].value is None
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


def test_the_same_summaries_give_the_same_bytes_without_a_date(tmp_path):
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for path in (first, second):
        draw_scores(path, {"student": summary(), "organ_teacher": summary(unseen=["tumor"])})
    assert first.read_bytes() == second.read_bytes()
    assert not re.search(r"\b20\d\d-\d\d-\d\d", first.read_text())


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


def test_a_class_has_the_color_of_its_place_in_the_label_map():
    names = [f"organ_{number}" for number in range(25)]
    colors = label_colors(names)
    assert [colors[name] for name in names[:20]] == list(LABEL_COLORS)
    assert colors["organ_20"] == LABEL_COLORS[0]
    assert model_colors(["student"]) == {"student": MODEL_COLORS[0]}
