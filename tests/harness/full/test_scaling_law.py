"""Scaling laws over a few sizes: coverage of their intervals, and their variance shares."""

import math

import numpy as np
import pytest

from benchmarks.statistics import forecast as benchmark
from harness.full.scaling_law import LossLaw, Points, ScoreLaw, fit, lack_of_fit
from harness.stats.decision import KnownSd

X = np.log(1e18) + np.arange(4.0)


def points(y, x=X, n=1):
    return Points(x=x[: len(y)], y=np.array(y), n=np.full(len(y), float(n)))


def power(x, irreducible, exponent, at=0.9):
    return irreducible + (at - irreducible) * np.exp(-exponent * (x - X[0]))


@pytest.mark.parametrize("law", list(benchmark.LAWS))
def test_the_interval_covers_under_every_plausible_law(law):
    cells = benchmark.coverage((8, 10, 12, 14), 2, 0.003, law, 0.003, 40)
    covers = int(cells[4].removesuffix(" %"))
    assert covers >= 90 - 2 * 100 * math.sqrt(0.9 * 0.1 / 40)


@pytest.mark.parametrize("known", [3, 4, 5, 6])
def test_the_next_size_of_a_published_family_is_inside(known):
    assert benchmark.family(known)[-1] == "True"


def test_a_law_without_noise_is_recovered_between_its_sizes():
    y = power(X, 0.3, 0.15)
    middle = fit(LossLaw(), points(y[[0, 1, 3]], X[[0, 1, 3]])).run([float(X[2])])
    assert middle.quantile(0.5) == pytest.approx(y[2], rel=0.002)


def test_an_interval_widens_with_the_extrapolation():
    fitted = fit(LossLaw(), points(power(X, 0.3, 0.1)))
    widths = [
        (run := fitted.run([float(X[-1]) + step])).quantile(0.95) - run.quantile(0.05)
        for step in (0, 1, 3, 6)
    ]
    assert widths == sorted(widths)


def test_sizes_off_the_law_raise_the_residual_sd():
    smooth = power(X, 0.3, 0.1)
    rough = smooth * (1 + 0.02 * np.array([1, -1, 1, -1]))
    rough_fit, smooth_fit = (fit(LossLaw(), points(y)) for y in (rough, smooth))
    assert rough_fit.residual_sd(0.5) > 2 * smooth_fit.residual_sd(0.5)


def test_lack_of_fit_is_distinguished_from_the_noise_of_replicates():
    law, seeds = LossLaw(), KnownSd(sd=0.001, df=8.0)
    smooth = points(power(X, 0.3, 0.1), n=3)
    rough = points(power(X, 0.3, 0.1) * (1 + 0.02 * np.array([1, -1, 1, -1])), n=3)
    assert lack_of_fit(smooth, fit(law, smooth, seeds), seeds) > 0.5
    assert lack_of_fit(rough, fit(law, rough, seeds), seeds) < 0.01
    three = points(power(X[:3], 0.3, 0.1))
    assert lack_of_fit(three, fit(law, three, seeds), seeds) is None


def test_known_noise_at_the_target_replaces_the_noise_of_proxies():
    measured, seeds = points(power(X, 0.3, 0.1), n=2), KnownSd(sd=0.02, df=4.0)
    noisy = fit(LossLaw(), measured, seeds)
    known = fit(LossLaw(), measured, seeds, KnownSd(sd=0.0002, df=19.0))
    at = [float(X[-1]) + 3]
    assert known.shares(at)["replicates"] < 0.01 < noisy.shares(at)["replicates"]


def test_the_variance_shares_sum_to_one():
    fitted = fit(LossLaw(), points(power(X, 0.3, 0.1)), KnownSd(sd=0.002, df=3.0))
    shares = fitted.shares([50.0])
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0


def test_the_irreducible_loss_stays_below_every_loss():
    fitted = fit(LossLaw(), points([0.50, 0.49, 0.485]))
    assert fitted.nonlinear(0.9999) < 0.485
    assert fitted.run([float(X[-1]) + 20]).quantile(0.0001) > 0


def test_quantiles_and_probabilities_are_inverse():
    law = ScoreLaw(centre=0.8)
    run = fit(law, points([0.10, 0.14, 0.19, 0.21], -X / 50)).run([-0.9])
    for probability in (0.001, 0.2, 0.55, 0.97):
        assert run.below(run.quantile(probability)) == pytest.approx(probability, abs=1e-6)


def test_a_straight_score_is_extrapolated_straight_within_its_interval():
    loss = np.array([0.95, 0.92, 0.89, 0.86])
    score = 0.1 + 0.9 * (0.95 - loss)
    run = fit(ScoreLaw(centre=float(loss.mean())), points(score, loss)).run([0.80])
    low, high = run.quantile(0.05), run.quantile(0.95)
    assert low < 0.1 + 0.9 * 0.15 < high
    assert high - low < 0.12
