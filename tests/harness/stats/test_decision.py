"""The decision: its rule, its guarantees by simulation, the choice of the noise behind it."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.stats.decision import (
    Difference,
    KnownSd,
    decide,
    difference,
    has_excess_variance,
    of_pairs,
)
from harness.stats.inference import Contrast

ALPHA, MARGIN = 0.05, 1.0
GATES = 4_000


def monte_carlo(rate: float, gates: int = GATES) -> float:
    """Two standard errors of a simulated rate."""
    return 2 * math.sqrt(rate * (1 - rate) / gates)


@pytest.mark.parametrize(
    ("estimate", "se", "outcome", "small"),
    [
        (-0.5, 0.1, "pass", False),
        (0.0, 0.1, "pass", False),
        (0.5, 0.1, "pass", True),
        (2.0, 0.1, "regression", False),
        (0.9, 0.1, "regression", False),
        (0.9, 1.0, "inconclusive", False),
        (0.5, 0.0, "pass", True),
        (1.0, 0.0, "regression", False),
    ],
)
def test_each_outcome_where_the_limits_put_it(estimate, se, outcome, small):
    found = decide(Contrast(estimate=estimate, se=se, df=30), MARGIN, ALPHA)
    assert (found.outcome, found.small_harm) == (outcome, small)


def test_limits_are_one_sided_t_limits_as_in_scipy():
    a, b = [1.0, 2.0, 4.0, 3.0], [2.5, 3.5, 3.0, 5.5]
    found = decide(difference(a, b).contrast, MARGIN, ALPHA)
    reference = stats.ttest_ind(b, a).confidence_interval(1 - 2 * ALPHA)
    assert (found.lower, found.upper) == pytest.approx((reference.low, reference.high))


def test_unequal_numbers_of_runs_get_welchs_limits_unless_one_side_has_a_single_run():
    a, b = [1.0, 2.0, 4.0, 3.0], [2.5, 3.5, 3.0]
    found = difference(a, b)
    reference = stats.ttest_ind(b, a, equal_var=False)
    assert found.method == "welch"
    assert found.contrast.df == pytest.approx(reference.df)
    single = difference(a, [2.5])
    assert (single.method, single.contrast.df) == ("pooled", 3)


def test_one_run_a_side_without_a_noise_model_is_inconclusive():
    found = decide(difference([1.0], [9.0]).contrast, MARGIN, ALPHA)
    assert found.outcome == "inconclusive"
    assert math.isnan(found.lower)


@pytest.mark.parametrize(
    ("n", "df"), [(1, 6.0), (3, 6.0), (10, 6.0), (1, 500.0), (10, 500.0), (3, None), (10, None)]
)
def test_no_harm_is_rarely_a_regression_and_a_harm_of_the_margin_rarely_passes(n, df):
    """A noise model's SD is itself an estimate: it is drawn anew, with its df, for every gate."""
    rng = np.random.default_rng(n)
    data = rng.normal(0, 0.8, (GATES, 2, n))
    sds = 0.8 * np.sqrt(rng.chisquare(df, GATES) / df) if df else None
    regressions = passes = 0
    for gate, (a, b) in enumerate(data):
        known = KnownSd(sd=float(sds[gate]), df=df) if df else None
        contrast = difference(a, b, known).contrast
        regressions += decide(contrast, MARGIN, ALPHA).outcome == "regression"
        harmful = Contrast(estimate=contrast.estimate + MARGIN, se=contrast.se, df=contrast.df)
        passes += decide(harmful, MARGIN, ALPHA).outcome == "pass"
    assert regressions / GATES <= ALPHA + monte_carlo(ALPHA)
    assert passes / GATES <= ALPHA + monte_carlo(ALPHA)


def test_a_side_that_varies_more_than_the_noise_model_is_reported_and_gets_welchs_limits():
    calm, wild = [0.0, 0.1, -0.1, 0.05], [0.0, 5.0, -4.0, 2.0]
    found = difference(calm, wild, KnownSd(sd=0.1, df=50))
    assert (found.method, found.excess_variance) == ("welch", (1,))
    reference = stats.ttest_ind(wild, calm, equal_var=False)
    assert found.contrast.estimate / found.contrast.se == pytest.approx(reference.statistic)
    assert found.contrast.df == pytest.approx(reference.df)


def test_a_single_run_beside_a_side_with_excess_variance_borrows_its_variance():
    wild = [0.0, 5.0, -4.0, 2.0]
    found = difference([1.0], wild, KnownSd(sd=0.1, df=50))
    assert found.contrast.df == 3
    assert found.contrast.se == pytest.approx(np.std(wild, ddof=1) * math.sqrt(1 + 1 / 4))


@pytest.mark.parametrize("df", [5.0, 100.0, math.inf])
def test_the_variance_guard_trips_on_one_quiet_side_in_a_hundred(df):
    rng, n = np.random.default_rng(3), 5
    sds = np.sqrt(rng.chisquare(df, GATES) / df) if math.isfinite(df) else np.ones(GATES)
    tripped = [
        has_excess_variance(values, KnownSd(sd=float(sd), df=df))
        for values, sd in zip(rng.normal(size=(GATES, n)), sds, strict=True)
    ]
    assert np.mean(tripped) == pytest.approx(0.01, abs=2 * monte_carlo(0.01))


def test_two_runs_never_trip_the_guard():
    assert not has_excess_variance([0.0, 100.0], KnownSd(sd=0.1, df=50))


def test_pairs_are_the_paired_t_test_and_their_sd_plans_more_runs():
    a, b = [1.0, 2.0, 4.0, 3.0], [2.5, 3.0, 6.0, 3.5]
    found = of_pairs(a, b)
    assert found.estimate / found.se == pytest.approx(stats.ttest_rel(b, a).statistic)
    assert (found.estimate, found.df) == (1.25, 3)
    paired = Difference(contrast=found, method="pooled", sd=9.0, run_sd=9.0, paired=found).of_pairs
    assert (paired.contrast, paired.method, paired.sd) == (found, "paired", paired.run_sd)
    assert paired.run_sd * math.sqrt(2 / 4) == pytest.approx(found.se)
    assert of_pairs(a[:2], b[:2]) is None


def test_a_known_sd_gives_the_error_and_its_df():
    found = difference([1.0, 2.0], [3.0, 4.0, 5.0], KnownSd(sd=2.0, df=7))
    assert (found.method, found.sd, found.run_sd, found.contrast.df) == ("noise_model", 2, 2, 7)
    assert found.contrast.estimate == 2.5
    assert found.contrast.se == pytest.approx(2 * math.sqrt(1 / 2 + 1 / 3))
    upper = decide(found.contrast, MARGIN).upper
    assert upper == pytest.approx(2.5 + stats.t.ppf(0.95, 7) * found.contrast.se)
    worse = decide(found.contrast, MARGIN, critical=1.0, critical_worse=2.0)
    assert (worse.upper, worse.lower) == (2.5 + found.contrast.se, 2.5 - 2 * found.contrast.se)
    assert decide(found.contrast, MARGIN, critical=1.0).lower == 2.5 - found.contrast.se
    stated = decide(found.contrast, MARGIN, 0.01)
    assert (stated.alpha, stated.margin, stated.harm) == (0.01, MARGIN, 2.5)
    assert stated.upper == pytest.approx(2.5 + stats.t.ppf(0.99, 7) * found.contrast.se)
