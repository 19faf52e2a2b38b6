import numpy as np
import pytest

from flare23_lib.evaluation import statistics
from flare23_lib.evaluation.statistics import compare, mean_intervals, score_matrix
from flare23_lib.evaluation.tables import summarize
from flare23_lib.labels import Label, LabelMap

LABELS = LabelMap((Label("liver", 1), Label("spleen", 3), Label("tumor", 14, kind="tumor")))


def rows(matrix):
    """Rows of cases from DSCs (cases, labels); the NSD is half of it."""
    table = []
    for number, values in enumerate(matrix):
        row = {"Name": f"case_{number}", "status": "ok"}
        for name, value in zip(LABELS.names, values, strict=True):
            row |= {f"{name}_DSC": value, f"{name}_NSD": None if value is None else value / 2}
        table.append(row)
    return table


def line_of(table, name):
    return next(row for row in table if row["class"] == name)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation_for_many_cases():
    values = np.random.default_rng(0).normal(0.8, 0.1, (400, 1))
    (interval,), _ = mean_intervals(values, [])
    error = 1.96 * values.std() / np.sqrt(400)
    assert interval == pytest.approx([values.mean() - error, values.mean() + error], abs=5e-4)


def test_two_cases_have_the_interval_from_one_to_the_other():
    (interval,), _ = mean_intervals(np.array([[0.2], [0.6]]), [])
    assert interval.tolist() == pytest.approx([0.2, 0.6])


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    columns = generator.normal(0, 1, (60, 300))
    intervals, _ = mean_intervals(columns, [])
    covered = ((intervals[:, 0] < 0) & (intervals[:, 1] > 0)).mean()
    assert 0.90 <= covered <= 0.98


def test_the_same_table_has_the_same_interval_and_chunks_do_not_matter(monkeypatch):
    values = np.random.default_rng(1).random((30, 3))
    first = mean_intervals(values, [0, 1])
    for one, other in zip(first, mean_intervals(values, [0, 1]), strict=True):
        assert np.array_equal(one, other)
    monkeypatch.setattr(statistics, "_CHUNK", 900)
    for one, other in zip(first, mean_intervals(values, [0, 1]), strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def test_empty_cells_do_not_count_and_a_single_case_has_no_interval():
    values = np.array([[0.5, 0.2, np.nan], [np.nan, 0.4, np.nan], [np.nan, np.nan, np.nan], [np.nan, 0.6, np.nan]])
    intervals, organs = mean_intervals(values, [0, 1, 2])
    assert np.isnan(intervals[[0, 2]]).all()
    assert 0.2 <= intervals[1, 0] < 0.4 < intervals[1, 1] <= 0.6
    assert np.isnan(organs).all()  # the organs' mean is one of two, of which only one has an interval
    assert mean_intervals(values, [1, 2])[1] == pytest.approx(intervals[1])


def test_the_organs_interval_heeds_that_hard_cases_are_hard_for_all_organs():
    shared = np.random.default_rng(2).random((50, 1))
    together = np.hstack([shared, shared])
    apart = np.hstack([shared, 1 - shared])
    _, wide = mean_intervals(together, [0, 1])
    _, narrow = mean_intervals(apart, [0, 1])
    assert wide[1] - wide[0] > 0.1
    assert narrow == pytest.approx([0.5, 0.5])


def test_a_summary_holds_the_intervals_behind_its_former_columns():
    summary = summarize(rows([[0.2, 0.4, None], [0.6, 0.8, None]]), LABELS)
    assert list(summary[0])[-5:] == ["note", "DSC_low", "DSC_high", "NSD_low", "NSD_high"]
    assert (line_of(summary, "liver")["DSC_low"], line_of(summary, "liver")["DSC_high"]) == (0.2, 0.6)
    assert (line_of(summary, "organs")["DSC_low"], line_of(summary, "organs")["NSD_high"]) == (0.3, 0.35)
    assert line_of(summary, "tumor")["DSC_low"] is None


def test_two_models_are_compared_case_by_case():
    """The models differ by 0.1 in each case, however much the cases differ: the interval is a point."""
    first = np.random.default_rng(3).uniform(0.2, 0.9, (20, 3)).round(3)
    table = compare(rows(first), rows((first - 0.1).round(3)), LABELS, "organs")
    for name in ("liver", "spleen", "tumor", "organs"):
        line = line_of(table, name)
        assert (line["cases"], line["DSC_difference"], line["DSC_low"], line["DSC_high"]) == (20, 0.1, 0.1, 0.1)
        assert line["NSD_difference"] == 0.05
    assert line_of(table, "liver")["DSC_first"] == pytest.approx(first[:, 0].mean(), abs=5e-5)


def test_cases_are_paired_by_name_and_only_what_both_have_is_compared():
    first = rows([[0.5, 0.5, 0.5], [0.7, 0.9, None], [0.9, 0.9, 0.9]])
    second = rows([[0.4, 0.5, 0.1], [0.4, 0.9, 0.3], [0.1, 0.1, 0.1]])
    second[2]["Name"] = "another"
    table = compare(first, list(reversed(second)), LABELS, "organs")
    liver, tumor = line_of(table, "liver"), line_of(table, "tumor")
    assert (liver["cases"], liver["DSC_first"], liver["DSC_second"], liver["DSC_difference"]) == (2, 0.6, 0.4, 0.2)
    assert (tumor["cases"], tumor["DSC_difference"], tumor["DSC_low"]) == (1, 0.4, None)


def test_models_without_a_case_in_common_have_no_difference():
    other = rows([[0.5, 0.5, 0.5]])
    other[0]["Name"] = "another"
    table = compare(rows([[0.5, 0.5, 0.5]]), other, LABELS, "organs")
    assert {row["DSC_difference"] for row in table} == {None}
    assert {row["cases"] for row in table} == {0}


def test_scores_are_read_from_text_as_from_numbers():
    written = [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in rows([[0.25, None, 1]])
    ]
    matrix = score_matrix(written, LABELS, "DSC")
    assert matrix[0, 0] == 0.25
    assert np.isnan(matrix[0, 1])
