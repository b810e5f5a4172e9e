"""Laws over a few sizes: intervals that hold whatever the law, and what they are made of."""

import math

import numpy as np
import pytest

from benchmarks.statistics import forecast as benchmark
from harness.full.laws import BentLine, Points, PowerLaw
from harness.full.scaling_law import fit, lack_of_fit
from harness.stats.decision import KnownSd

X = np.log(1e18) + np.arange(4.0)


def points(y, x=X, n=1):
    return Points(x=x[: len(y)], y=np.array(y), n=np.full(len(y), float(n)))


def power(x, floor, exponent, at=0.9):
    return floor + (at - floor) * np.exp(-exponent * (x - X[0]))


@pytest.mark.parametrize("floor", list(benchmark.LAWS))
def test_the_interval_holds_under_every_law_that_is_thought_possible(floor):
    cells = benchmark.coverage((8, 10, 12, 14), 2, 0.003, floor, 0.003, 40)
    holds = int(cells[4].removesuffix(" %"))
    assert holds >= 90 - 2 * 100 * math.sqrt(0.9 * 0.1 / 40)


@pytest.mark.parametrize("known", [3, 4, 5, 6])
def test_the_next_size_of_a_published_family_is_inside(known):
    assert benchmark.family(known)[-1] == "True"


def test_a_law_without_noise_is_found_again_between_its_sizes():
    y = power(X, 0.3, 0.15)
    middle = fit(PowerLaw(), points(y[[0, 1, 3]], X[[0, 1, 3]])).run([float(X[2])])
    assert middle.quantile(0.5) == pytest.approx(y[2], rel=0.002)


def test_an_interval_is_wider_the_further_it_reaches():
    posterior = fit(PowerLaw(), points(power(X, 0.3, 0.1)))
    widths = [
        (found := posterior.run([float(X[-1]) + step])).quantile(0.95) - found.quantile(0.05)
        for step in (0, 1, 3, 6)
    ]
    assert widths == sorted(widths)


def test_a_family_that_lies_off_its_law_says_so():
    smooth = power(X, 0.3, 0.1)
    rough = smooth * (1 + 0.02 * np.array([1, -1, 1, -1]))
    assert fit(PowerLaw(), points(rough)).scatter(0.5) > 2 * fit(
        PowerLaw(), points(smooth)
    ).scatter(0.5)


def test_lack_of_fit_is_told_from_the_noise_of_replicates():
    law, seeds = PowerLaw(), KnownSd(sd=0.001, df=8.0)
    smooth = points(power(X, 0.3, 0.1), n=3)
    rough = points(power(X, 0.3, 0.1) * (1 + 0.02 * np.array([1, -1, 1, -1])), n=3)
    assert lack_of_fit(smooth, fit(law, smooth, seeds), seeds) > 0.5
    assert lack_of_fit(rough, fit(law, rough, seeds), seeds) < 0.01
    three = points(power(X[:3], 0.3, 0.1))
    assert lack_of_fit(three, fit(law, three, seeds), seeds) is None


def test_noise_that_is_known_at_the_target_takes_the_place_of_the_proxies_noise():
    seen, seeds = points(power(X, 0.3, 0.1), n=2), KnownSd(sd=0.02, df=4.0)
    noisy = fit(PowerLaw(), seen, seeds)
    known = fit(PowerLaw(), seen, seeds, KnownSd(sd=0.0002, df=19.0))
    at = [float(X[-1]) + 3]
    assert known.shares(at)["replicates"] < 0.01 < noisy.shares(at)["replicates"]


def test_the_shares_of_a_variance_are_a_whole():
    posterior = fit(PowerLaw(), points(power(X, 0.3, 0.1)), KnownSd(sd=0.002, df=3.0))
    shares = posterior.shares([50.0])
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0


def test_a_floor_never_stands_above_a_loss():
    posterior = fit(PowerLaw(), points([0.50, 0.49, 0.485]))
    assert posterior.shape(1.0) < 0.485
    assert posterior.run([float(X[-1]) + 20]).quantile(0.0001) > 0


def test_quantiles_and_probabilities_of_a_mixture_are_inverse():
    found = fit(BentLine(centre=0.8), points([0.10, 0.14, 0.19, 0.21], -X / 50)).run([-0.9, -0.92])
    for probability in (0.001, 0.2, 0.5, 0.97):
        assert found.below(found.quantile(probability)) == pytest.approx(probability, abs=1e-6)


def test_a_straight_score_is_continued_straight_in_the_middle_of_its_interval():
    loss = np.array([0.95, 0.92, 0.89, 0.86])
    score = 0.1 + 0.9 * (0.95 - loss)
    found = fit(BentLine(centre=float(loss.mean())), points(score, loss)).run([0.80])
    low, high = found.quantile(0.05), found.quantile(0.95)
    assert low < 0.1 + 0.9 * 0.15 < high
    assert high - low < 0.1
