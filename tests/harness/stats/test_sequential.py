"""Three looks: the published boundary, its error rate by simulation, what peeking would cost."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.stats.decision import decide
from harness.stats.inference import Contrast
from harness.stats.sequential import boundary, criticals, crossing, look_tails, looks

GATES = 20_000
THIRDS = (1 / 3, 2 / 3, 1.0)


def test_the_boundary_is_the_published_one():
    """Jennison and Turnbull, table 2.3: O'Brien-Fleming, K = 3, two-sided .05 and .1."""
    assert boundary(0.025) == pytest.approx(2.004, abs=0.001)
    assert boundary(0.05) == pytest.approx(1.710, abs=0.001)


@pytest.mark.parametrize("shares", [THIRDS, (0.25, 0.5, 1.0), (0.5, 1.0), (0.2, 0.4, 0.6, 1.0)])
@pytest.mark.parametrize("c", [1.7, 2.3])
def test_crossing_equals_the_multivariate_normal_of_scipy(shares, c):
    covariance = np.minimum.outer(shares, shares)
    reference = stats.multivariate_normal(cov=covariance, abseps=1e-7).cdf([c] * len(shares))
    assert crossing(c, shares) == pytest.approx(1 - reference, abs=2e-6)


def test_a_single_look_is_the_ordinary_limit():
    assert boundary(0.05, (1.0,)) == pytest.approx(stats.norm.ppf(0.95))


def test_looks_come_after_each_third_rounded_up():
    assert looks(9) == (3, 6, 9)
    assert looks(10) == (4, 7, 10)
    assert looks(1) == (1,)


def test_early_looks_use_wider_limits_and_few_degrees_of_freedom_wider_ones():
    known = criticals(0.05, [math.inf] * 3, THIRDS)
    assert known == pytest.approx([boundary(0.05) * math.sqrt(3 / k) for k in (1, 2, 3)])
    few = criticals(0.05, [4, 8, 12], THIRDS)
    assert all(t > z for t, z in zip(few, known, strict=True))


def test_looks_at_the_runs_own_spread_use_up_alpha_between_them():
    tails = look_tails(0.05, THIRDS, own_df=[0, 2, 4])
    assert tails[1] + tails[2] == pytest.approx(0.05)
    assert look_tails(0.05, (1.0,), own_df=[4]) == pytest.approx((0.05,))
    assert look_tails(0.05, THIRDS)[2] == pytest.approx(stats.norm.sf(boundary(0.05)))
    at_last = criticals(0.05, [0, 2, 4], THIRDS, own=True)[2]
    assert at_last == pytest.approx(stats.t.isf(tails[2], 4))


@pytest.mark.parametrize(("truth", "wrong"), [(0.0, "regression"), (1.0, "pass")])
def test_three_looks_keep_each_sides_error_rate(truth, wrong):
    rng, n, alpha = np.random.default_rng(11), 9, 0.05
    at = looks(n)
    critical = criticals(alpha, [math.inf] * 3, [k / n for k in at])
    sums = np.cumsum(rng.normal(truth, 1.3, (GATES // 4, n)), axis=1)
    errors = 0
    for row in sums:
        for k, c in zip(at, critical, strict=True):
            harm = Contrast(estimate=row[k - 1] / k, se=1.3 / math.sqrt(k), df=math.inf)
            outcome = decide(harm, 1.0, alpha, c).outcome
            if outcome != "inconclusive":
                errors += outcome == wrong
                break
    rate = errors / len(sums)
    assert rate <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / len(sums))
    assert rate > alpha / 2


def test_uncorrected_peeking_turns_one_percent_into_five():
    """Why the looks are planned: a look after every run from the third to the twentieth."""
    rng = np.random.default_rng(13)
    sums = np.cumsum(rng.normal(size=(GATES, 20)), axis=1)[:, 2:]
    z = sums / np.sqrt(np.arange(3, 21))
    fired = (z > stats.norm.ppf(0.99)).any(axis=1).mean()
    assert fired == pytest.approx(0.048, abs=0.005)
