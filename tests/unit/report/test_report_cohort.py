from xml.etree import ElementTree

import pandas as pd
import pytest
from reports import cut_off, drawn, svg_texts

from flare23_lib.dataset.summary import CATEGORY_COLUMNS
from flare23_lib.report.cohort import MAX_SETS, NO_LABELS, Group, draw_cohort, read_groups

LABELS = {"liver": 1, "right_kidney": 2, "tumor": 14}


def row(category, present, cases, quarantined=0, split="training"):
    values = (split, category, present, str(cases), str(quarantined), "0")
    return dict(zip(CATEGORY_COLUMNS, values, strict=True))


ROWS = [
    row("tumor", "all", 1497, 3),
    row("tumor", "1 14", 609, 1),
    row("tumor", "14", 888, 2),
    row("unlabeled", "all", 1),
    row("", "all", 100, split="validation"),
]


def texts(rows, folder, labels=LABELS):
    path = folder / "cohort.svg"
    draw_cohort(path, pd.DataFrame(rows), labels)
    return [element.text for element in svg_texts(path)]


def test_groups_hold_their_sets_by_frequency_and_validation_comes_last():
    groups = read_groups(pd.DataFrame(ROWS))
    assert [group.name for group in groups] == ["tumor", "unlabeled", "validation"]
    assert groups[0] == Group("tumor", 1497, 3, {(14,): 888, (1, 14): 609})
    assert list(groups[0].sets) == [(14,), (1, 14)]
    assert groups[1].sets == {}


def test_a_label_is_counted_over_all_sets_that_hold_it(tmp_path):
    rows = [row("tumor", "all", 9), row("tumor", "1", 4), row("tumor", "1 14", 3), row("tumor", "14", 2)]
    found = texts(rows, tmp_path)
    assert found[: found.index("cases")].count("7") == 1
    assert "5" in found


@pytest.mark.parametrize("sets", [MAX_SETS, MAX_SETS + 1])
def test_few_sets_are_all_shown(sets):
    group = Group("a", 9, 0, {(value,): 1 for value in range(sets)})
    assert len(group.rows) == sets
    assert not any(isinstance(present, str) for present, _ in group.rows)


def test_of_dozens_of_sets_the_most_frequent_are_shown_and_the_rest_is_summed_up(tmp_path):
    rows = [row("a", "all", sum(range(1, 41)))]
    rows += [row("a", f"{value} 1000", value) for value in range(1, 41)]
    group = read_groups(pd.DataFrame(rows))[0]
    assert [cases for _, cases in group.rows[:-1]] == list(range(40, 40 - MAX_SETS, -1))
    found = texts(rows, tmp_path)
    assert f"{40 - MAX_SETS} other label sets" in found
    assert str(sum(range(1, 41 - MAX_SETS))) in found


def test_the_figure_says_names_cases_and_quarantine(tmp_path):
    found = texts(ROWS, tmp_path)
    for text in (
        "tumor",
        "1,497 cases, 3 quarantined",
        "right kidney",
        "888",
        "609",
        "1 case",
        "100 cases",
        NO_LABELS,
    ):
        assert text in found, text


def test_a_label_that_is_present_has_a_filled_dot_in_its_color(tmp_path):
    draw_cohort(tmp_path / "with.svg", pd.DataFrame(ROWS), LABELS)
    without = [*ROWS[:1], row("tumor", "14", 1497), *ROWS[3:]]
    draw_cohort(tmp_path / "without.svg", pd.DataFrame(without), LABELS)
    liver = "#ff7711"
    assert (tmp_path / "with.svg").read_text().count(liver) > 0
    assert (tmp_path / "without.svg").read_text().count(liver) == 0


def test_a_cohort_without_any_case_can_be_drawn(tmp_path):
    assert "0 cases" in texts([row("tumor", "all", 0), row("", "all", 0, split="validation")], tmp_path)


def test_long_names_stay_inside_the_figure(tmp_path):
    name = "a_rather_long_name_of_many_words_for_a_category"
    draw_cohort(tmp_path / "long.svg", pd.DataFrame([row(name, "all", 5), row(name, "1", 5)]), LABELS)
    width = float(ElementTree.parse(tmp_path / "long.svg").getroot().get("viewBox").split()[2])
    ends = [float(element.get("x") or 0) for element in svg_texts(tmp_path / "long.svg")]
    assert max(ends) < width
    assert min(ends) >= 0


def test_the_note_of_a_cohort_of_one_label_is_not_cut_off(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    draw_cohort(tmp_path / "one.svg", pd.DataFrame([row("a", "all", 5), row("a", "1", 5)]), {"liver": 1})
    assert cut_off(figures) == []
