"""McNemar and the paired bootstrap: against statsmodels, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables

from benchmarks.statistics import core_intervals
from harness.stats.inference import Contrast
from harness.stats.paired_tests import (
    beyond_examples,
    mcnemar,
    paired_bootstrap,
    shared_variance,
    stratified_bootstrap,
)


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


def test_tasks_of_few_values_and_of_many_are_drawn_from_one_distribution():
    rng = np.random.default_rng(2)
    gaps = rng.integers(-1, 2, 300).astype(float)
    (counted, _), (drawn, _) = (
        stratified_bootstrap([task], draws=8000, seed=3)
        for task in (gaps, gaps + rng.normal(0, 1e-9, 300))
    )
    assert (counted.low, counted.high) == pytest.approx((drawn.low, drawn.high), abs=0.006)
    assert counted.se == pytest.approx(gaps.std() / 300**0.5, rel=0.03)


def test_the_total_is_the_mean_of_the_tasks_and_each_task_has_its_own_limits():
    rng = np.random.default_rng(3)
    tasks = [rng.normal(0.1, 0.2, 50), rng.normal(0.0, 0.4, 500)]
    whole, each = stratified_bootstrap(tasks, draws=3000)
    assert whole.estimate == pytest.approx((each[0].estimate + each[1].estimate) / 2)
    assert whole.se == pytest.approx((each[0].se ** 2 + each[1].se ** 2) ** 0.5 / 2, rel=0.05)
    assert [one.se for one in each] == pytest.approx([0.2 / 50**0.5, 0.4 / 500**0.5], rel=0.2)


@pytest.mark.parametrize("apart_sd", [0.0, 0.3])
def test_examples_alone_miss_the_noise_between_runs_and_both_together_cover_it(apart_sd):
    rounds = 1000
    examples, _, both = core_intervals.coverage(0.05, apart_sd, rounds)
    # a hundredth for what Satterthwaite's df and so few examples cost, then Monte-Carlo error
    assert both > 0.89 - 2 * (0.9 * 0.1 / rounds) ** 0.5
    assert examples < 0.8


def test_runs_alone_miss_what_other_examples_would_change():
    _, runs, both = core_intervals.coverage(0.0, 0.3, 400)
    assert runs < 0.7
    assert both > 0.86


def test_what_runs_and_examples_share_is_counted_once():
    rng, shared = np.random.default_rng(6), []
    for _ in range(200):
        a, b = core_intervals.sides(rng, run_sd=0.0)
        shared.append(shared_variance(a, b))
    residual = core_intervals.RESIDUAL_SD**2 * 2 / core_intervals.RUNS
    expected = sum(residual / size for size in core_intervals.SIZES) / 2**2
    assert np.mean(shared) == pytest.approx(expected, rel=0.03)


def test_one_run_a_side_shares_nothing_that_can_be_separated():
    a, b = core_intervals.sides(np.random.default_rng(7), run_sd=0.0, runs=1)
    assert shared_variance(a, b) == 0.0


def test_the_shared_variance_is_the_interaction_of_runs_and_examples():
    rng = np.random.default_rng(6)
    shapes = ((2, 3), (3, 3)), ((2, 5), (1, 5))  # runs and examples of both sides, by task
    tasks = [[rng.normal(size=shape) for shape in sides] for sides in shapes]
    expected = 0.0
    for sides in tasks:
        squares, df, examples = 0.0, 0, sides[0].shape[1]
        for side in sides:
            means = side.mean(axis=1)[:, None] + side.mean(axis=0)[None, :] - side.mean()
            squares += ((side - means) ** 2).sum()
            df += (len(side) - 1) * (examples - 1)
        expected += squares / df / examples * (1 / len(sides[0]) + 1 / len(sides[1]))
    a, b = zip(*tasks, strict=True)
    assert shared_variance(a, b) == pytest.approx(expected / 2**2)


def test_the_error_beyond_the_examples_is_at_least_that_of_runs_or_of_examples_alone():
    runs = Contrast(estimate=1.0, se=3.0, df=4)
    both = beyond_examples(runs, 4.0, 0.0)
    assert (both.estimate, both.se) == (1.0, 5.0)
    assert both.df == pytest.approx(4 * (25 / 9) ** 2)
    assert beyond_examples(runs, 4.0, 20.0).se == 4.0
    assert beyond_examples(runs, 1.0, 20.0).se == 3.0
    exact = beyond_examples(Contrast(estimate=1.0, se=0.0, df=4), 4.0, 0.0)
    assert (exact.se, exact.df) == (4.0, math.inf)


def test_the_default_draws_are_two_thousand_of_seed_zero_at_five_percent():
    tasks = [([0.0, 1.0, 2.0, 5.0], [1.0, 1.5, 2.0, 4.0])]
    stated = paired_bootstrap(tasks, alpha=0.05, draws=2000, seed=0)
    assert paired_bootstrap(tasks) == stated
    gaps = [np.array(b) - np.array(a) for a, b in tasks]
    assert stratified_bootstrap(gaps)[0] == stated
