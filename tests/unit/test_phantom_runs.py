"""Statistics over seeds, in the benchmarks on phantoms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import benchmark
from scipy import stats


@pytest.fixture(scope="module")
def runs():
    return benchmark("phantom_runs")


@given(seed=st.integers(0, 2**31), seeds=st.integers(2, 8))
def test_the_interval_of_a_ratio_ends_where_the_difference_becomes_significant(runs, seed, seeds):
    above, below = np.random.default_rng(seed).normal([0.04, 0.06], 0.02, (seeds, 2)).T
    found = runs.ratio_of_means(above, below)
    assert found["mean"] == pytest.approx(above.mean() / below.mean(), abs=1e-4)
    if stats.ttest_1samp(below, 0).pvalue > 0.05:
        assert found["interval"] is None
        return
    for end in found["interval"]:
        if abs(end) < 10:  # beyond, the rounding of an end shows in the p-value
            assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05, abs=2e-3)
    assert found["interval"][0] <= found["mean"] <= found["interval"][1]


def test_one_seed_has_a_ratio_and_no_interval(runs):
    assert runs.ratio_of_means([0.03], [0.06]) == {"mean": 0.5, "interval": None, "seeds": 1}
