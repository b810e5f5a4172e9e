"""The one-sample test of a target, against scipy."""

import pytest
from scipy import stats

from harness.stats.target import target_test

LOSSES = [3.2784, 3.2790, 3.2777, 3.2798, 3.2801]


@pytest.mark.parametrize(("sign", "alternative"), [(1, "less"), (-1, "greater")])
def test_p_is_that_of_scipy(sign, alternative):
    found = target_test(LOSSES, 3.28, sign, 0.01)
    assert found.p == pytest.approx(stats.ttest_1samp(LOSSES, 3.28, alternative=alternative).pvalue)
    assert found.mean == pytest.approx(3.279)
    assert found.n == 5


def test_the_runs_needed_are_the_fewest_of_this_mean_and_sd_that_pass():
    found = target_test(LOSSES, 3.28, 1, 0.01)
    inside = (3.28 - found.mean) / found.sd

    def p(n):
        return stats.t.sf(inside * n**0.5, n - 1)

    assert found.p > 0.01
    assert p(found.runs) < 0.01 <= p(found.runs - 1)


@pytest.mark.parametrize(("runs", "found"), [(1999, 1999), (2000, 2000), (2001, None)])
def test_at_most_two_thousand_runs_are_feasible(runs, found):
    apart = (stats.t.isf(0.01, runs - 1) + 1e-7) / runs**0.5  # SDs from the target
    values = [-0.5 - apart * 0.5**0.5, 0.5 - apart * 0.5**0.5]  # their SD is the root of 1/2
    assert target_test(values, 0.0, 1, 0.01).runs == found


def test_a_mean_beyond_the_target_is_met_by_no_number_of_runs():
    assert target_test(LOSSES, 3.27, 1, 0.01).runs is None


@pytest.mark.parametrize("values", [[3.27], [3.27, 3.27]])
def test_one_run_and_equal_runs_are_not_tested(values):
    found = target_test(values, 3.28, 1, 0.01)
    assert (found.p, found.sd, found.runs) == (None, None, None)
