"""McNemar and the paired bootstrap: against statsmodels, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables

from harness.pairs import mcnemar, paired_bootstrap


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_equals_statsmodels(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(80) < 0.6, rng.random(80) < 0.7
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (table[0][1], table[1][0])
    assert found.p == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue)


def test_equal_answers_have_p_one():
    assert mcnemar([True, False], [True, False]).p == 1.0


def test_the_bootstrap_agrees_with_students_interval_where_that_holds():
    rng = np.random.default_rng(1)
    a = rng.normal(0.5, 0.2, 400)
    b = a + rng.normal(0.02, 0.1, 400)
    found = paired_bootstrap([(a, b)], draws=4000)
    reference = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert found.estimate == pytest.approx((b - a).mean())
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.001)


def test_tasks_weigh_alike_whatever_their_size():
    small, large = ([0.0] * 10, [1.0] * 10), ([0.0] * 1000, [0.0] * 1000)
    found = paired_bootstrap([small, large], draws=50)
    assert found.estimate == pytest.approx(0.5)
    assert (found.low, found.high, found.se) == pytest.approx((0.5, 0.5, 0.0))


def test_equal_seeds_give_equal_limits():
    tasks = [([0.1, 0.9, 0.4], [0.3, 0.7, 0.6])]
    assert paired_bootstrap(tasks, seed=4) == paired_bootstrap(tasks, seed=4)


def test_the_interval_covers_the_truth_over_several_tasks():
    rng, covered, rounds = np.random.default_rng(5), 0, 400
    for _ in range(rounds):
        tasks = []
        for size in (30, 80, 150):
            a = rng.normal(0.5, 0.3, size)
            tasks.append((a, a + rng.normal(0.03, 0.15, size)))
        found = paired_bootstrap(tasks, draws=400, seed=int(rng.integers(1 << 30)))
        covered += found.low <= 0.03 <= found.high
    assert covered / rounds == pytest.approx(0.95, abs=0.035)
