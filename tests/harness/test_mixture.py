"""The open test: its formula, its error rate at any moment, its two ends."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from harness.mixture import block_variance, decide, running_p

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


def test_a_flood_of_evidence_does_not_overflow():
    assert decide([1e6] * 5, 1.0, MARGIN).outcome == "regression"


@pytest.mark.parametrize(("truth", "wrong"), [(0.0, "regression"), (MARGIN, "pass")])
def test_looking_after_every_block_keeps_the_error_rate(truth, wrong):
    rng = np.random.default_rng(17)
    paths = rng.normal(truth, math.sqrt(2.0), (PATHS, BLOCKS))
    outcomes = [decide(path, 2.0, MARGIN, ALPHA).outcome for path in paths]
    assert outcomes.count(wrong) / PATHS <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / PATHS)
    assert outcomes.count("inconclusive") < 0.2 * PATHS


def test_the_block_of_the_decision_is_told():
    found = decide([3.0, 3.0, 3.0, 3.0], 1.0, MARGIN)
    assert found.outcome == "regression"
    assert found.block is not None
    assert decide([3.0] * (found.block - 1), 1.0, MARGIN).outcome == "inconclusive"


def test_without_blocks_there_is_no_verdict():
    assert decide([], 1.0, MARGIN).block is None


def test_correlated_seeds_make_a_smaller_variance():
    assert block_variance(0.1) == pytest.approx(0.02)
    assert block_variance(0.1, 0.4) == pytest.approx(0.012)
