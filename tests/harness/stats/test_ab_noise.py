"""Launch-level intervals of a speed A/B: cover their truth, and are as wide as published."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics import launch_guard
from harness.stats.ab_noise import OWN_LAUNCHES, PRIOR_DF, summarize_launches
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


def test_the_error_is_that_of_launches_and_windows():
    ratios = [[0.001, 0.003], [0.004, 0.008, 0.003], [0.012, 0.006]]  # means .002, .005, .009
    inside = (2 * 0.001**2 + (0.001**2 + 0.003**2 + 0.002**2) + 2 * 0.003**2) / 4
    of_mean = inside * 3 / 7  # of a mean of 7/3 windows
    spread = 37e-6 / 3  # of the means about .016 / 3, over 2 df
    own = (spread - of_mean) / 2
    found = summarize_launches(ratios)
    assert found.contrast.estimate == pytest.approx(0.016 / 3)
    assert found.window_sd == pytest.approx(math.sqrt(inside))
    assert found.launch_sd == pytest.approx(math.sqrt(own))
    assert found.contrast.se == pytest.approx(math.sqrt(2 * own / 3 + inside / 7))
    row = KnownSd(sd=0.0014, df=3.5)
    widened = summarize_launches(ratios, row)
    variance = (PRIOR_DF * 0.0014**2 + 2 * own) / (PRIOR_DF + 2)
    assert (widened.noise, widened.contrast.df) == ("moderated", 3.5)
    assert widened.launch_sd == pytest.approx(math.sqrt(variance))
    assert widened.contrast.se == pytest.approx(math.sqrt(2 * variance / 3 + inside / 7))


def test_launches_beyond_the_row_are_those_beyond_a_quantile_of_f():
    row, limit = KnownSd(sd=0.001, df=10), stats.f.isf(0.05, 2, 10)
    for share, noise in ((0.99, "moderated"), (1.01, "own")):
        x = math.sqrt(share * limit * 2 * 0.001**2)  # the SD of -x, 0 and x is x
        assert summarize_launches([[-x], [0.0], [x]], row).noise == noise


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
    few = summarize_launches(list(simulated(rng, OWN_LAUNCHES - 1, 0)), known)
    assert few.noise == "noise_model"
    found = summarize_launches(list(simulated(rng, OWN_LAUNCHES, 0)), known)
    assert found.noise == "own"
    assert found.contrast.df == OWN_LAUNCHES - 1


def test_launches_that_vary_more_than_the_row_widen_the_limits():
    known = KnownSd(sd=0.001, df=50)
    calm, wide, wild = (
        [[-x], [0.0], [x]] for x in (0.001, 0.0015, 0.02)
    )  # variances of 1, 1.1 and 200 times those of the row
    row, moderated, own = (summarize_launches(one, known) for one in (calm, wide, wild))
    assert (row.noise, row.contrast.df, row.launch_sd) == ("noise_model", 50, 0.001)
    assert (moderated.noise, moderated.contrast.df) == ("moderated", PRIOR_DF + 2)
    assert 0.001 < moderated.launch_sd < 0.0015 / math.sqrt(2)
    assert (own.noise, own.contrast.df) == ("own", 2)
    assert own.launch_sd == pytest.approx(0.02 / math.sqrt(2))


def test_two_launches_are_guarded_too_and_one_is_the_rows():
    known = KnownSd(sd=0.001, df=50)
    assert summarize_launches([[0.5]], known).noise == "noise_model"
    assert summarize_launches([[0.02], [-0.02]], known).noise == "own"


@pytest.mark.parametrize("launches", launch_guard.LAUNCHES)
@pytest.mark.parametrize(("ratio", "most"), [(1, 0.04), (2, 0.1), (4, 0.11)])
def test_launches_noisier_than_the_row_err_half_as_often_as_by_the_row_alone(launches, ratio, most):
    rates = launch_guard.simulate(launches, ratio, 10_000)
    assert rates.error <= most + 2 * math.sqrt(most * (1 - most) / 10_000)
    assert ratio == 1 or rates.error < rates.row_alone / 2


def test_arrays_are_guarded_as_launches_are():
    drawn = launch_guard.drawn(3, 2, 50)
    se, df = launch_guard.guarded(*drawn)
    for row, (means, sd) in enumerate(zip(*drawn, strict=True)):
        known = KnownSd(sd=float(sd), df=launch_guard.ROW_DF)
        one = summarize_launches([[float(mean)] for mean in means], known).contrast
        assert (one.se, one.df) == pytest.approx((se[row], df[row]))


def test_own_noise_is_that_of_the_launch_means():
    ratios = simulated(np.random.default_rng(3), 6, 0.0)
    found = summarize_launches(list(ratios))
    direct = ratios.mean(axis=1).std(ddof=1) / math.sqrt(6)
    assert found.contrast.se == pytest.approx(direct)
    assert found.window_sd == pytest.approx(WINDOW, rel=0.3)


def test_one_launch_without_a_noise_model_has_no_interval():
    assert summarize_launches([[0.1, 0.2]]).contrast.df == 0
