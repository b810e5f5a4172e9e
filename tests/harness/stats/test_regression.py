"""Block model, slope and time to target: against statsmodels, simulation and exact addition."""

import math
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm

from benchmarks.statistics import time_to_target as bench
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast
from harness.stats.moderation import moderate, unpaired
from harness.stats.regression import (
    LossCurve,
    add_contrasts,
    fit_blocks,
    fit_exchange,
    quality_part,
)


def _dummies(index: np.ndarray) -> np.ndarray:
    return (index[:, None] == np.unique(index)[None, :]).astype(float)


def test_block_model_equals_ordinary_least_squares_with_unequal_cells() -> None:
    rng = np.random.default_rng(0)
    blocks = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    arms = np.array([0, 1, 2, 0, 1, 0, 1, 2, 0, 2])
    values = rng.normal(size=len(blocks)) + blocks
    fit = fit_blocks(values, blocks, arms)
    design = np.hstack([_dummies(blocks), _dummies(arms)[:, 1:]])
    reference = sm.OLS(values, design).fit()
    assert fit.estimates == pytest.approx(reference.params[4:])
    assert [fit.contrast(i).se for i in range(2)] == pytest.approx(reference.bse[4:])
    assert fit.df == reference.df_resid


def test_leverages_and_coefficients_are_those_of_the_hat_matrix() -> None:
    rng = np.random.default_rng(1)
    blocks, arms = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 1, 2, 0, 1, 0, 2])
    values = rng.normal(size=7)
    fit = fit_blocks(values, blocks, arms)
    design = np.hstack([_dummies(blocks), _dummies(arms)[:, 1:]])
    hat = design @ np.linalg.pinv(design)
    assert fit.leverages == pytest.approx(np.diag(hat))
    assert fit.residuals == pytest.approx(values - hat @ values)
    assert fit.coefficients @ values == pytest.approx(fit.estimates)


def test_one_block_has_estimates_but_no_degrees_of_freedom() -> None:
    fit = fit_blocks(np.array([1.0, 1.5]), np.array([0, 0]), np.array([0, 1]))
    assert fit.estimates == pytest.approx([0.5])
    assert fit.df == 0
    assert math.isnan(fit.contrast(0).se)


def _shared(x: np.ndarray) -> np.ndarray:
    return np.isclose(x, 0.0)


def test_parabola_equals_ordinary_least_squares_with_block_intercepts() -> None:
    rng = np.random.default_rng(2)
    blocks = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    x = np.log([0.71, 1, 1.41, 0.71, 1, 1.41, 1, 1.41])
    y = 3 - 0.1 * x + 0.03 * x**2 + 0.02 * blocks + rng.normal(0, 0.001, 8)
    fit = fit_exchange(x, y, blocks)
    assert fit is not None
    reference = sm.OLS(y, np.hstack([x[:, None], x[:, None] ** 2, _dummies(blocks)])).fit()
    assert (fit.slope, fit.curvature) == pytest.approx(tuple(reference.params[:2]))
    assert (fit.se, fit.df) == pytest.approx((reference.bse[0], reference.df_resid))
    assert fit.weights @ y == pytest.approx([fit.slope, fit.curvature])


def test_two_horizons_give_a_line_and_one_gives_no_rate() -> None:
    x, blocks = np.log([1, 1.41, 1, 1.41]), np.array([0, 0, 1, 1])
    fit = fit_exchange(x, 3 - 0.2 * x, blocks)
    assert fit is not None
    assert (fit.slope, fit.curvature) == pytest.approx((-0.2, 0.0))
    assert fit_exchange(np.zeros(3), np.ones(3), np.arange(3)) is None
    assert fit_exchange(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.intp)) is None


def test_a_loss_that_rises_between_horizons_does_not_fall() -> None:
    x, blocks = np.log([0.5, 1, 2.0]), np.zeros(3, dtype=np.intp)
    for losses, falls in (([3.3, 3.0, 2.9], True), ([3.3, 3.0, 3.1], False)):
        fit = fit_exchange(x, np.array(losses), blocks)
        assert fit is not None
        assert fit.falls is falls


def test_quality_is_midway_between_parabola_and_chord_and_both_agree_at_a_horizon() -> None:
    x, blocks = np.log([0.5, 1, 2.0]), np.zeros(3, dtype=np.intp)
    fit = fit_exchange(x, np.array([3.3, 3.0, 2.8]), blocks)
    assert fit is not None
    exact = _without_noise(fit)
    at_horizon = quality_part(Contrast(estimate=0.3, se=0.0, df=9), exact)
    assert at_horizon is not None
    assert (at_horizon.estimate, at_horizon.se) == pytest.approx((math.log(2), 0.0), abs=1e-8)
    between = quality_part(Contrast(estimate=0.1, se=0.0, df=9), exact)
    assert between is not None
    chord = 0.1 / 0.3 * math.log(2)
    (parabola,) = (
        -root for root in np.roots([fit.curvature, fit.slope, -0.1]).real if abs(root) < math.log(2)
    )
    assert between.estimate == pytest.approx((chord + parabola) / 2)
    assert between.se == pytest.approx(abs(chord - parabola) / 2)


def _without_noise(fit: LossCurve) -> LossCurve:
    """The same without noise."""
    return replace(fit, sd=0.0, df=9)


@pytest.mark.parametrize(
    ("shared", "from_curve"),
    [(None, 0.005), ([False, True], 0.105), ([True, False], -0.005)],  # the last one is bounded
)
def test_the_error_of_a_time_is_carried_from_the_loss_and_from_the_line(shared, from_curve) -> None:
    line = LossCurve(
        slope=-1.0, curvature=0.0, weights=np.array([[0.5, -0.5]]), sd=1.0, df=4,
        horizons=np.array([-1.0, 0.0, 1.0]),
    )  # fmt: skip
    loss = Contrast(estimate=0.1, se=0.1, df=9)
    found = quality_part(loss, line, None if shared is None else np.array(shared))
    assert found is not None
    assert found.estimate == pytest.approx(0.1)
    assert found.se == pytest.approx(math.sqrt(0.01 + from_curve))
    df = (0.01 + from_curve) ** 2 / (0.01**2 / 9 + from_curve**2 / 4)
    assert found.df == pytest.approx(df)


def test_a_loss_that_the_parabola_never_has_gives_no_quality() -> None:
    x, blocks = np.log([0.5, 1, 2.0]), np.zeros(3, dtype=np.intp)
    fit = fit_exchange(x, np.array([3.5, 3.0, 2.95]), blocks)
    assert fit is not None
    assert quality_part(Contrast(estimate=-9.0, se=0.1, df=9), fit) is None


def test_intervals_on_arrays_equal_those_of_single_studies() -> None:
    rng, n = np.random.default_rng(5), 3
    studies = bench.draw(rng, 20, n, 0.006, bench.parabola, 0.04)
    estimates, halves = bench.intervals(studies, 2)
    x, blocks = np.tile(bench.X, n), np.repeat(np.arange(n), 3)
    for base, arms, estimate, half in zip(*studies, estimates, halves, strict=True):
        fit = fit_exchange(x, base.ravel(), blocks)
        assert fit is not None
        groups = [base[:, 1], *arms]
        variances = moderate(np.array([np.var(g) * n for g in groups]), np.full(5, n - 1.0))
        loss = unpaired([g.mean() for g in groups], [n] * 5, variances)[0]
        part = quality_part(loss, fit, _shared(x))
        assert part is not None
        assert part.estimate == pytest.approx(estimate)
        assert t_quantile(0.975, part.df) * part.se == pytest.approx(half)


@pytest.mark.parametrize("curve", bench.CURVES)
@pytest.mark.parametrize(("sd", "n"), [(0.0087, 3), (0.004, 5)])
@pytest.mark.parametrize("effect", [-0.059, 0.03, 0.12])
def test_quality_intervals_hold_on_a_bent_curve(curve, sd, n, effect) -> None:
    assert bench.cell(sd, n, curve, effect, 2, 2_000) >= 0.93


def test_the_two_parts_add_exactly() -> None:
    rng = np.random.default_rng(5)
    for quality, speed in rng.normal(size=(100, 2)):
        total = add_contrasts(
            Contrast(estimate=quality, se=0.1, df=5), Contrast(estimate=speed, se=0.2, df=7)
        )
        assert total.estimate == quality + speed
        assert total.se == pytest.approx(math.sqrt(0.05))


def test_a_part_without_degrees_of_freedom_leaves_the_sum_without() -> None:
    known, unknown = Contrast(estimate=1, se=0.1, df=5), Contrast(estimate=1, se=math.nan, df=0)
    assert add_contrasts(known, unknown).df == 0
