"""The open test: its formula, its error rate at any moment, its two ends."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from harness.stats.decision import decide
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast
from harness.stats.sequential import block_variance, mixture_tail, running_p

ALPHA, MARGIN = 0.05, 1.0
PATHS, BLOCKS = 4_000, 100


def test_the_likelihood_ratio_is_the_mixture_of_normal_likelihoods():
    d, variance, tau = np.array([0.3, -0.1, 0.8]), 0.5, 0.4

    def likelihood(effect: float) -> float:
        return float(np.prod(stats.norm.pdf(d, effect, math.sqrt(variance))))

    mixed, _ = integrate.quad(lambda e: likelihood(e) * stats.norm.pdf(e, 0, tau), -8, 8)
    ratios = [1 / running_p(d[:k], variance, tau)[-1] for k in (1, 2, 3)]
    assert max(mixed / likelihood(0), ratios[1]) == pytest.approx(ratios[2])


def test_p_never_rises_and_never_exceeds_one():
    p = running_p(np.random.default_rng(0).normal(size=(50, 40)), 1.0, 0.5)
    assert (np.diff(p, axis=1) <= 0).all()
    assert p.max() <= 1


def outcome(differences, variance: float) -> str:
    """The outcome after these blocks, with a look after each."""
    for n in range(1, len(differences) + 1):
        se = math.sqrt(variance / n)
        harm = Contrast(estimate=float(np.mean(differences[:n])), se=se, df=math.inf)
        critical = t_quantile(1 - mixture_tail(se, MARGIN / 2, ALPHA), math.inf)
        found = decide(harm, MARGIN, ALPHA, critical).outcome
        if found != "inconclusive":
            return found
    return "inconclusive"


def test_a_limit_of_the_interval_meets_zero_where_the_p_value_is_twice_alpha():
    variance, tau = 0.8, 0.4
    for n in (1, 4, 30):
        se = math.sqrt(variance / n)
        mean = t_quantile(1 - mixture_tail(se, tau, ALPHA), math.inf) * se
        assert running_p([mean] * n, variance, tau)[-1] == pytest.approx(2 * ALPHA)


def test_a_flood_of_evidence_does_not_overflow():
    assert outcome([1e6] * 5, 1.0) == "regression"
    assert running_p([1e6] * 5, 1.0, 0.5)[-1] < 1e-300


def test_evidence_far_too_weak_for_any_limit_has_the_widest_finite_limits():
    assert math.isfinite(t_quantile(1 - mixture_tail(1e6, 0.5, ALPHA), 5))


@pytest.mark.parametrize(("truth", "wrong"), [(0.0, "regression"), (MARGIN, "pass")])
def test_looking_after_every_block_keeps_the_error_rate(truth, wrong):
    """All paths at once: the limits of `tail` at every block, decided as `decision.decide` does."""
    rng, n = np.random.default_rng(17), np.arange(1, BLOCKS + 1)
    se = np.sqrt(2.0 / n)
    half = se * [
        t_quantile(1 - mixture_tail(float(one), MARGIN / 2, ALPHA), math.inf) for one in se
    ]
    mean = np.cumsum(rng.normal(truth, math.sqrt(2.0), (PATHS, BLOCKS)), axis=1) / n
    first = [
        np.where(hit.any(1), hit.argmax(1), BLOCKS)
        for hit in (mean + half < MARGIN, mean - half > 0)
    ]
    found = first[0] < first[1] if wrong == "pass" else first[1] < first[0]
    assert found.mean() <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / PATHS)
    assert (np.minimum(*first) == BLOCKS).mean() < 0.2


def test_correlated_seeds_make_a_smaller_variance():
    assert block_variance(0.1) == pytest.approx(0.02)
    assert block_variance(0.1, 0.4) == pytest.approx(0.012)
