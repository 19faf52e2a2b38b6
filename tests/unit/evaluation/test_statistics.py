import math

import numpy as np
import pandas as pd
import pytest

from flare23_lib.evaluation import tables
from flare23_lib.evaluation.tables import compare, mean_intervals, summarize
from flare23_lib.labels import Label, LabelMap

LABELS = LabelMap((Label("liver", 1), Label("spleen", 3), Label("tumor", 14, kind="tumor")))


def scores(matrix):
    """A table of cases from DSCs (cases, labels); the NSD is half of it."""
    values = pd.DataFrame(matrix, columns=LABELS.names, dtype=float)
    table = values.add_suffix("_DSC").join((values / 2).add_suffix("_NSD"))
    return table.assign(Name=[f"case_{number}" for number in table.index], status="ok")


def intervals_of(values, organs=()):
    """Intervals of columns, an array each, and of the mean of some of them."""
    table = mean_intervals(pd.DataFrame(values), list(organs))
    return table.drop("organs", errors="ignore").to_numpy(), table.loc["organs"].to_numpy() if len(organs) else None


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation_for_many_cases():
    values = np.random.default_rng(0).normal(0.8, 0.1, (400, 1))
    (interval,), _ = intervals_of(values)
    error = 1.96 * values.std() / np.sqrt(400)
    assert interval == pytest.approx([values.mean() - error, values.mean() + error], abs=5e-4)


def test_two_cases_have_the_interval_from_one_to_the_other():
    (interval,), _ = intervals_of([[0.2], [0.6]])
    assert interval.tolist() == pytest.approx([0.2, 0.6])


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    columns = generator.normal(0, 1, (60, 300))
    intervals, _ = intervals_of(columns)
    covered = ((intervals[:, 0] < 0) & (intervals[:, 1] > 0)).mean()
    assert 0.90 <= covered <= 0.98


def test_the_same_table_has_the_same_interval_and_chunks_do_not_matter(monkeypatch):
    values = np.random.default_rng(1).random((30, 3))
    first = mean_intervals(pd.DataFrame(values), [0, 1])
    assert mean_intervals(pd.DataFrame(values), [0, 1]).equals(first)
    monkeypatch.setattr(tables, "_CHUNK", 900)
    assert mean_intervals(pd.DataFrame(values), [0, 1]).to_numpy() == pytest.approx(first.to_numpy(), abs=1e-12)


def test_a_class_of_few_cases_does_not_widen_the_interval_of_the_organs_mean():
    rare = np.full(50, np.nan)
    rare[:2] = 0.6
    intervals, organs = intervals_of(np.column_stack([np.full(50, 0.9), rare]), [0, 1])
    assert intervals.tolist() == [pytest.approx([0.9, 0.9]), pytest.approx([0.6, 0.6])]
    assert organs == pytest.approx([0.75, 0.75])


def test_empty_cells_do_not_count_and_a_single_case_has_no_interval():
    values = np.array([[0.5, 0.2, np.nan], [np.nan, 0.4, np.nan], [np.nan, np.nan, np.nan], [np.nan, 0.6, np.nan]])
    intervals, organs = intervals_of(values, [0, 1, 2])
    assert np.isnan(intervals[[0, 2]]).all()
    assert 0.2 <= intervals[1, 0] < 0.4 < intervals[1, 1] <= 0.6
    assert np.isnan(organs).all()  # the organs' mean is one of two, of which only one has an interval
    assert intervals_of(values, [1, 2])[1] == pytest.approx(intervals[1])


def test_the_organs_interval_heeds_that_hard_cases_are_hard_for_all_organs():
    shared = np.random.default_rng(2).random((50, 1))
    together = np.hstack([shared, shared])
    apart = np.hstack([shared, 1 - shared])
    _, wide = intervals_of(together, [0, 1])
    _, narrow = intervals_of(apart, [0, 1])
    assert wide[1] - wide[0] > 0.1
    assert narrow == pytest.approx([0.5, 0.5])


def test_a_summary_holds_the_intervals_behind_its_former_columns():
    summary = summarize(scores([[0.2, 0.4, None], [0.6, 0.8, None]]), LABELS)
    assert list(summary)[-5:] == ["note", "DSC_low", "DSC_high", "NSD_low", "NSD_high"]
    assert summary.loc["liver", ["DSC_low", "DSC_high"]].tolist() == [0.2, 0.6]
    assert summary.loc["organs", ["DSC_low", "NSD_high"]].tolist() == [0.3, 0.35]
    assert math.isnan(summary.loc["tumor", "DSC_low"])


def test_two_models_are_compared_case_by_case():
    """The models differ by 0.1 in each case, however much the cases differ: the interval is a point."""
    first = np.random.default_rng(3).uniform(0.2, 0.9, (10, 3)).round(2)  # so that no mean is a tie
    table = compare(scores(first), scores((first - 0.1).round(2)), LABELS)
    for name in ("liver", "spleen", "tumor", "organs"):
        line = table.loc[name]
        assert (line["cases"], line["DSC_difference"], line["DSC_low"], line["DSC_high"]) == (10, 0.1, 0.1, 0.1)
        assert line["NSD_difference"] == 0.05
    assert table.loc["liver", "DSC_first"] == pytest.approx(first[:, 0].mean(), abs=5e-5)


def test_cases_are_paired_by_name_and_only_what_both_have_is_compared():
    first = scores([[0.5, 0.5, 0.5], [0.7, 0.9, None], [0.9, 0.9, 0.9]])
    second = scores([[0.4, 0.5, 0.1], [0.4, 0.9, 0.3], [0.1, 0.1, 0.1]]).replace("case_2", "another")
    table = compare(first, second[::-1], LABELS)
    liver, tumor = table.loc["liver"], table.loc["tumor"]
    assert (liver["cases"], liver["DSC_first"], liver["DSC_second"], liver["DSC_difference"]) == (2, 0.6, 0.4, 0.2)
    assert (tumor["cases"], tumor["DSC_difference"]) == (1, 0.4)
    assert math.isnan(tumor["DSC_low"])


def test_models_without_a_case_in_common_have_no_difference():
    other = scores([[0.5, 0.5, 0.5]]).replace("case_0", "another")
    table = compare(scores([[0.5, 0.5, 0.5]]), other, LABELS)
    assert table["DSC_difference"].isna().all()
    assert set(table["cases"]) == {0}


def test_a_mean_of_a_comparison_is_rounded_as_that_of_a_summary():
    """Means of 50 cases with four decimals are often ties; both tables decide them alike."""
    table = scores(np.random.default_rng(0).random((50, 3)).round(4))
    summary, compared = summarize(table, LABELS), compare(table, table, LABELS)
    assert summary["DSC_mean"].to_dict() == compared["DSC_first"].to_dict()
