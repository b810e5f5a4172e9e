"""Rates and runs that would settle: against simulation and the published figures."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from harness.stats.power import MOST_RUNS, more_runs, rates

SD, MARGIN, ALPHA = 0.0014, 0.002, 0.05  # the speedrun's loss, in nats
DRAWS = 200_000


def error(runs: int) -> float:
    return SD * math.sqrt(2 / runs)


def test_an_unchanged_model_is_inconclusive_41_times_in_100_at_three_runs():
    found = rates(0.0, MARGIN, error(3), math.inf, ALPHA)
    assert found.inconclusive == pytest.approx(0.41, abs=0.005)
    assert found.regression == pytest.approx(ALPHA)


@pytest.mark.parametrize("df", [4.0, 20.0, math.inf])
@pytest.mark.parametrize("harm", [0.0, 0.5, 1.0, 2.0])
def test_rates_equal_simulation(df, harm):
    rng, se = np.random.default_rng(7), 0.4
    estimate = rng.normal(harm, se, DRAWS)
    scale = np.sqrt(rng.chisquare(df, DRAWS) / df) if math.isfinite(df) else 1.0
    half = stats.t.ppf(1 - ALPHA, df) * se * scale
    passes = estimate + half < 1.0
    regression = ~passes & (estimate - half > 0)
    found = rates(harm, 1.0, se, df, ALPHA)
    assert found.passes == pytest.approx(passes.mean(), abs=0.004)
    assert found.regression == pytest.approx(regression.mean(), abs=0.004)


def test_without_degrees_of_freedom_nothing_is_decided():
    assert rates(0.0, MARGIN, error(1), 0).inconclusive == 1.0


@pytest.mark.parametrize(("harm", "passes"), [(0.5, 1.0), (1.0, 0.0), (1.5, 0.0)])
def test_without_noise_the_outcome_is_right(harm, passes):
    found = rates(harm, 1.0, 0.0, 3)
    assert (found.passes, found.regression) == (passes, 1 - passes)


def test_more_runs_settle_an_inconclusive_comparison_with_probability_nine_tenths():
    more = more_runs(0.0012, SD, MARGIN, (3, 4), ALPHA, df=math.inf)
    assert more is not None

    def settled(extra: int) -> float:
        se = SD * math.sqrt(1 / (3 + extra) + 1 / (4 + extra))
        return rates(0.0012, MARGIN, se, math.inf, ALPHA).settled

    assert settled(more) >= 0.9 > settled(more - 1)


@pytest.mark.parametrize("needed", [*range(9), 16, 17, 33, 1999, 2000, 2001])
def test_the_runs_are_the_fewest_that_settle(needed):
    def missing(ratio: float) -> float:
        return rates(ratio / 2, ratio, 1.0, math.inf, ALPHA).settled - 0.9

    ratio = optimize.brentq(missing, 2.0, 10.0) * (1 + 1e-9)  # of the margin to the error
    margin = ratio * SD * math.sqrt(2 / (2 + needed))
    more = more_runs(margin / 2, SD, margin, (2, 2), ALPHA, df=math.inf)
    assert more == (max(1, needed) if needed <= MOST_RUNS else None)


def test_against_a_fixed_baseline_only_the_candidate_grows():
    both = more_runs(0.0, SD, MARGIN, (6, 2), ALPHA, df=math.inf)
    alone = more_runs(0.0, SD, MARGIN, (6, 2), ALPHA, df=math.inf, only_b=True)
    assert alone > both
    assert more_runs(0.0, SD, MARGIN, (2, 2), ALPHA, df=math.inf, only_b=True) is None


def test_a_share_for_regressions_takes_more_runs_and_changes_no_pass():
    whole, half = (rates(MARGIN, MARGIN, error(4), 20, ALPHA, share) for share in (1.0, 0.5))
    assert half.passes == whole.passes
    assert half.regression < whole.regression


def test_runs_that_no_budget_has_are_none():
    assert more_runs(0.0005, 1.0, 0.001, (3, 3)) is None
    assert MOST_RUNS >= 1000
