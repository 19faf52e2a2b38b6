import itertools

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from places import RECIPE, REPOSITORY

from flare23_lib.config import Config
from flare23_lib.config.settings import MethodSettings
from flare23_lib.dataset import flare23
from flare23_lib.report.method import BOX, arrange, mermaid, method_graph

LONG = "_with_a_rather_long_name_of_many_words"
LONG_WORD = "pneumonoultramicroscopicsilicovolcanoconiosis"


def tables(categories, completions, train_on, evaluated=()):
    models = {name: {"train_on": sources, "evaluate": name in evaluated} for name, sources in train_on.items()}
    return MethodSettings.from_json(
        {"categories": [{"name": name} for name in categories], "completions": completions, "models": models}
    )


ONE_TEACHER = tables(
    ["liver", "tumor", "unlabeled"],
    {"everything": {"category": "unlabeled", "teacher": "teacher"}},
    {
        "teacher": {"manual_labels": ["liver", "tumor"]},
        "student": {"manual_labels": ["liver", "tumor"], "label_completions": ["everything"]},
    },
)
LONG_NAMES = tables(
    ["category" + LONG, LONG_WORD],
    {"completion" + LONG: {"category": "category" + LONG, "teacher": "teacher" + LONG}},
    {
        "teacher" + LONG: {"manual_labels": [LONG_WORD]},
        "student" + LONG: {"label_completions": ["completion" + LONG]},
    },
)


def many_rounds(categories=8, rounds=3):
    names = [f"c{number}" for number in range(categories)]
    completions, train_on = {}, {"t0": {"manual_labels": names[:3]}}
    for number in range(rounds):
        for name in names:
            base = {"base": f"{name}_{number - 1}"} if number else {}
            completions[f"{name}_{number}"] = {"category": name, "teacher": f"t{number}", **base}
        train_on[f"t{number + 1}"] = {"label_completions": [f"{name}_{number}" for name in names]}
    return tables(names, completions, train_on, ["t3"])


def configured(preset=None):
    files = [RECIPE, *([REPOSITORY / "presets" / f"{preset}.yaml"] if preset else [])]
    return Config.load(files).method_settings()


CONFIGURATIONS = {
    "recipe": configured(),
    **{preset: configured(preset) for preset in ("demo", "rounds", "second_look")},
    "one_teacher": ONE_TEACHER,
    "long_names": LONG_NAMES,
    "many_rounds": many_rounds(),
}

every_layout = pytest.mark.parametrize(
    "layout",
    [arrange(method_graph(values, flare23.CASES)) for values in CONFIGURATIONS.values()],
    ids=CONFIGURATIONS,
)


def edges(values):
    return {
        f"{source.kind} {source.name} > {target.kind} {target.name}"
        for source, target in method_graph(values, {}).edges
    }


# The graph


def test_every_relation_of_the_configuration_is_an_edge():
    assert edges(configured("second_look")) == {
        "category all_organs > model organ_teacher",
        *(f"category tumor_{half} > completed labels tumor_{half}" for half in "01"),
        *(f"model organ_teacher > completed labels tumor_{half}" for half in "01"),
        *(f"completed labels tumor_{half} > model half_teacher_{half}" for half in "01"),
        *(f"completed labels tumor_{half} > completed labels tumor_{half}_again" for half in "01"),
        "model half_teacher_1 > completed labels tumor_0_again",
        "model half_teacher_0 > completed labels tumor_1_again",
        *(f"completed labels tumor_{half}_again > model tumor_teacher" for half in "01"),
        *(f"completed labels tumor_{half}_again > model student" for half in "01"),
        *(f"category {name} > completed labels {name}" for name in ("all_organs", "five_organs", "unlabeled")),
        *(f"model tumor_teacher > completed labels {name}" for name in ("all_organs", "five_organs", "unlabeled")),
        *(f"completed labels {name} > model student" for name in ("all_organs", "five_organs", "unlabeled")),
        "model student > evaluation evaluation",
    }


def test_a_model_counts_the_cases_that_it_learns_from():
    cases = {(node.kind, node.name): node.cases for node in method_graph(configured(), flare23.CASES).nodes}
    assert cases["model", "organ_teacher"] == cases["completed labels", "all_organs"] == 250
    assert cases["model", "student"] == 4000
    assert cases["model", "student_2200"] == 2200


def test_a_category_that_is_not_counted_has_no_cases():
    shown = {node.name: node.lines[-1] for node in method_graph(ONE_TEACHER, {"liver": 12, "tumor": 1}).nodes}
    assert shown == {
        "liver": "12 cases", "tumor": "1 case", "unlabeled": "0 cases", "everything": "0 cases",
        "teacher": "13 cases", "student": "13 cases",
    }  # fmt: skip


# Mermaid


def test_mermaid_text_has_a_line_for_each_node_and_edge():
    cases = {"liver": 12, "unlabeled": 3456}
    values = tables(
        ["liver", "unlabeled"],
        {"all": {"category": "unlabeled", "teacher": "first_teacher"}},
        {"first_teacher": {"manual_labels": ["liver"]}, "student": {"label_completions": ["all"]}},
        ["student"],
    )
    text = mermaid(method_graph(values, cases)).splitlines()
    assert text[0] == "flowchart LR"
    assert [line.strip() for line in text[1:] if "classDef" not in line] == [
        'category_liver["category<br>liver<br>12 cases"]:::category',
        'category_unlabeled["category<br>unlabeled<br>3,456 cases"]:::category',
        'model_first_teacher("model<br>first teacher<br>12 cases"):::model',
        'model_student("model<br>student<br>3,456 cases"):::model',
        'completed_all["completed labels<br>all<br>3,456 cases"]:::completed',
        'evaluation_evaluation["evaluation"]:::evaluation',
        "category_liver --> model_first_teacher",
        "completed_all --> model_student",
        "category_unlabeled -.-> completed_all",
        "model_first_teacher --> completed_all",
        "model_student --> evaluation_evaluation",
    ]


def test_the_diagram_in_the_readme_is_current():
    """`python scripts/readme_picture.py` renews it."""
    expected = mermaid(method_graph(configured(), flare23.CASES))
    assert f"```mermaid\n{expected}```\n" in (REPOSITORY / "README.md").read_text()


# The figure


@every_layout
def test_no_two_boxes_overlap(layout):
    for (ax, ay), (bx, by) in itertools.combinations(layout.boxes.values(), 2):
        assert max(abs(ax - bx) - layout.width, abs(ay - by) - BOX) > 0.05


@every_layout
def test_no_arrow_runs_through_a_box(layout):
    for corners in layout.lines.values():
        steps = np.concatenate([np.linspace(a, b, 50) for a, b in itertools.pairwise(corners)])
        for x, y in layout.boxes.values():
            middle, half = (x + layout.width / 2, y + BOX / 2), (layout.width / 2 - 0.01, BOX / 2)
            assert not (np.abs(steps - middle) < half).all(axis=1).any()


@every_layout
def test_every_arrow_leads_from_one_box_rightwards_and_down_to_another(layout):
    for (source, target), corners in layout.lines.items():
        assert corners[0] == (layout.boxes[source][0] + layout.width, layout.boxes[source][1] + BOX / 2)
        assert corners[-1][0] == layout.boxes[target][0]
        assert 0 < corners[-1][1] - layout.boxes[target][1] < BOX
        steps = np.diff(corners, axis=0)
        assert (steps[:, 0] >= 0).all()
        assert (steps[:, 1] <= 0).all()


@every_layout
def test_arrows_share_a_track_only_if_they_lead_to_the_same_box(layout):
    ends = {}
    for (_, target), corners in layout.lines.items():
        ends.setdefault(corners[1][0], set()).add(target)
    assert all(len(targets) == 1 for targets in ends.values())


@pytest.mark.parametrize("values", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_there_is_a_box_for_each_node_and_an_arrow_for_each_edge(values):
    graph = method_graph(values, {})
    layout = arrange(graph)
    assert set(layout.boxes) == set(graph.nodes)
    assert set(layout.lines) == set(graph.edges)


@pytest.mark.parametrize("values", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_text_fits_into_its_box(values):
    graph = method_graph(values, flare23.CASES)
    layout = arrange(graph)
    for name in {node.name for node in graph.nodes}:
        text = TextPath((0, 0), name.replace("_", " "), 8.5, prop=FontProperties(weight="bold"))
        assert text.get_extents().width / 72 < layout.width
