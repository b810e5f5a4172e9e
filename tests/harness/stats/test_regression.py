"""Block model, slope and time to target: against statsmodels, simulation and exact addition."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from harness.stats.inference import Contrast
from harness.stats.regression import Slope, add_contrasts, fit_blocks, fit_slope, quality_part


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


def test_slope_equals_ordinary_least_squares_with_block_intercepts() -> None:
    rng = np.random.default_rng(2)
    blocks = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    x = np.log([0.71, 1, 1.41, 0.71, 1, 1.41, 1, 1.41])
    y = 3 - 0.1 * x + 0.02 * blocks + rng.normal(0, 0.01, 8)
    fit = fit_slope(x, y, blocks)
    assert fit is not None
    reference = sm.OLS(y, np.hstack([x[:, None], _dummies(blocks)])).fit()
    assert (fit.slope, fit.se, fit.df) == pytest.approx(
        (reference.params[0], reference.bse[0], reference.df_resid)
    )
    assert float(fit.weights @ y) == pytest.approx(fit.slope)


def test_one_horizon_gives_no_slope() -> None:
    assert fit_slope(np.zeros(3), np.ones(3), np.arange(3)) is None
    assert fit_slope(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.intp)) is None


def test_quality_interval_covers_the_truth_and_carries_the_error_of_the_slope() -> None:
    """Base runs take part in both the loss difference and the slope, as in a study."""
    rng, draws, sd, true_slope, true_loss = np.random.default_rng(3), 4_000, 0.02, -0.1, 0.025
    seeds, grid = 3, np.log([0.5, 1.0, 2.0])
    x, blocks = np.tile(grid, seeds), np.repeat(np.arange(seeds), 3)
    at_base = np.isclose(x, 0.0)
    covered, without_slope = 0, 0
    for _ in range(draws):
        base = true_slope * x + rng.normal(0, sd, len(x))
        arm = true_loss + rng.normal(0, sd, seeds)
        fit = fit_slope(x, base, blocks)
        assert fit is not None
        difference = float(arm.mean() - base[at_base].mean())
        loss = Contrast(estimate=difference, se=sd * math.sqrt(2 / seeds), df=math.inf)
        part = quality_part(loss, fit, float(fit.weights[at_base].sum()) / seeds)
        truth = true_loss / -true_slope
        covered += abs(part.estimate - truth) <= 1.96 * part.se
        without_slope += abs(part.estimate - truth) <= 1.96 * loss.se / -fit.slope
    assert covered / draws == pytest.approx(0.95, abs=0.02)
    assert without_slope < covered


def test_shared_base_runs_change_the_error_as_in_a_simulation() -> None:
    """With horizons on one side only, the base's own runs pull slope and difference together."""
    rng, draws, sd, slope = np.random.default_rng(4), 20_000, 0.004, -0.1
    x = np.log([0.5, 1.0])
    loss = 0.05
    base = slope * x + rng.normal(0, sd, (draws, 2))
    arm = loss + rng.normal(0, sd, draws)
    slopes = (base[:, 1] - base[:, 0]) / (x[1] - x[0])
    simulated = ((arm - base[:, 1]) / -slopes).std()
    weights = np.array([-1, 1]) / (x[1] - x[0])
    fit = Slope(slope=slope, se=sd * float(np.linalg.norm(weights)), df=9, sd=sd, weights=weights)
    part = quality_part(Contrast(estimate=loss, se=sd * math.sqrt(2), df=9), fit, float(weights[1]))
    assert part.se == pytest.approx(simulated, rel=0.05)


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
