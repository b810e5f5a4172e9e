"""Launch-level intervals of a speed A/B: cover their truth, and are as wide as published."""

import math

import numpy as np
import pytest

from harness.stats.ab_noise import OWN_LAUNCHES, summarize_launches
from harness.stats.decision import KnownSd
from harness.stats.distributions import t_quantile

LAUNCH, WINDOW, WINDOWS = 0.0008, 0.0003, 12
DRAWS = 3_000


def simulated(rng: np.random.Generator, launches: int, effect: float) -> np.ndarray:
    shifts = rng.normal(effect, LAUNCH * math.sqrt(2), (launches, 1))
    return shifts + rng.normal(0, WINDOW, (launches, WINDOWS))


@pytest.mark.parametrize("launches", [2, 3, OWN_LAUNCHES, 8])
@pytest.mark.parametrize("noise_model", [True, False])
def test_one_sided_limits_cover_the_truth(launches, noise_model):
    rng, effect, df = np.random.default_rng(launches), 0.004, 12
    below = 0
    for _ in range(DRAWS):
        sd = LAUNCH * math.sqrt(rng.chisquare(df) / df)
        known = KnownSd(sd=sd, df=df) if noise_model else None
        found = summarize_launches(list(simulated(rng, launches, effect)), known)
        half = t_quantile(0.95, found.contrast.df) * found.contrast.se
        below += effect < found.contrast.estimate - half
    assert below / DRAWS <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / DRAWS)


def test_launches_of_one_ratio_each_have_the_error_of_their_own_spread():
    ratios = np.random.default_rng(0).normal(0.004, LAUNCH, 6)
    found = summarize_launches([[ratio] for ratio in ratios])
    assert found.contrast.se == pytest.approx(ratios.std(ddof=1) / math.sqrt(6))
    assert found.contrast.df == 5
    assert math.isnan(found.window_sd)


def test_three_launches_resolve_what_is_published():
    """CV between processes of the same session .0013: +-.17 % at three launches, .29 % at one."""
    known = KnownSd(sd=0.0013, df=math.inf)
    for launches, resolved in ((3, 0.0017), (1, 0.0029)):
        found = summarize_launches([[0.0] * 50] * launches, known)
        assert 1.645 * found.contrast.se == pytest.approx(resolved, rel=0.05)


def test_more_windows_do_not_replace_launches():
    known, rng = KnownSd(sd=LAUNCH, df=50), np.random.default_rng(1)
    few = summarize_launches([rng.normal(0, WINDOW, 4)], known).contrast.se
    correction = summarize_launches([rng.normal(0, WINDOW, 4000)], known).contrast.se
    assert correction < few
    assert correction >= LAUNCH * math.sqrt(2)


def test_own_launches_replace_the_noise_model_from_the_fifth_on():
    rng, known = np.random.default_rng(2), KnownSd(sd=1.0, df=50)
    assert summarize_launches(list(simulated(rng, OWN_LAUNCHES - 1, 0)), known).from_noise_model
    found = summarize_launches(list(simulated(rng, OWN_LAUNCHES, 0)), known)
    assert not found.from_noise_model
    assert found.contrast.df == OWN_LAUNCHES - 1


def test_the_noise_model_is_dropped_once_three_launches_vary_more_than_it_allows():
    known = KnownSd(sd=0.001, df=50)
    calm, wild = [[0.001], [0.0], [-0.001]], [[0.02], [0.0], [-0.02]]
    assert summarize_launches(calm, known).from_noise_model
    assert summarize_launches(wild[:2], known).from_noise_model, "two are too few"
    found = summarize_launches(wild, known)
    assert not found.from_noise_model
    assert found.contrast.df == 2


def test_own_noise_is_that_of_the_launch_means():
    ratios = simulated(np.random.default_rng(3), 6, 0.0)
    found = summarize_launches(list(ratios))
    direct = ratios.mean(axis=1).std(ddof=1) / math.sqrt(6)
    assert found.contrast.se == pytest.approx(direct)
    assert found.window_sd == pytest.approx(WINDOW, rel=0.3)


def test_one_launch_without_a_noise_model_has_no_interval():
    assert summarize_launches([[0.1, 0.2]]).contrast.df == 0
