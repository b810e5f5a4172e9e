"""Dunnett's critical value and p-value against published tables, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.stats.distributions import (
    dunnett_critical,
    dunnett_loadings,
    loadings_from_covariance,
    max_abs_t_probability,
    t_quantile,
    t_two_sided_p,
)

# Dunnett, Biometrics 20 (1964) 482-491, two-sided, joint 5 %: df -> values for 1..5 arms.
PUBLISHED = {
    5: (2.57, 3.03, 3.29, 3.48, 3.62),
    10: (2.23, 2.57, 2.76, 2.89, 2.99),
    20: (2.09, 2.38, 2.54, 2.65, 2.73),
    60: (2.00, 2.27, 2.41, 2.51, 2.58),
    math.inf: (1.96, 2.21, 2.35, 2.44, 2.51),
}


@pytest.mark.parametrize("df", PUBLISHED)
def test_critical_values_equal_the_published_table(df: float) -> None:
    found = [dunnett_critical(0.05, df, dunnett_loadings(5, [5] * k)) for k in range(1, 6)]
    assert found == pytest.approx(PUBLISHED[df], abs=0.0051)


@pytest.mark.parametrize(("df", "alpha"), [(3, 0.05), (17.4, 0.05), (200, 0.01)])
def test_t_quantiles_and_p_values_equal_scipy(df: float, alpha: float) -> None:
    assert t_quantile(1 - alpha, df) == pytest.approx(stats.t.ppf(1 - alpha, df))
    assert t_two_sided_p(1.7, df) == pytest.approx(2 * stats.t.sf(1.7, df))


@pytest.mark.parametrize("sizes", [(5, 5, 5, 5), (6, 4, 9, 5), (2, 8, 3, 20)])
def test_p_values_equal_scipy_with_unequal_runs(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(7)
    control, *arms = (rng.normal(size=n) for n in sizes)
    arms[0] = arms[0] + 1.0
    df = sum(sizes) - len(sizes)
    groups = [control, *arms]
    sd = math.sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / df)
    expected = stats.dunnett(*arms, control=control, rng=np.random.default_rng(1)).pvalue
    loadings = dunnett_loadings(sizes[0], sizes[1:])
    found = []
    for arm in arms:
        scale = sd * math.sqrt(1 / len(arm) + 1 / len(control))
        t = abs(arm.mean() - control.mean()) / scale
        found.append(1 - max_abs_t_probability(t, df, loadings))
    assert found == pytest.approx(list(expected), abs=2e-3)  # scipy's is a random quadrature


def test_critical_value_holds_its_level_in_simulation_with_unequal_runs() -> None:
    rng, draws = np.random.default_rng(3), 40_000
    sizes, df = (3, 2, 6, 4), 11
    means = [rng.normal(0, 1 / math.sqrt(n), draws) for n in sizes]
    sd = np.sqrt(rng.chisquare(df, draws) / df)
    largest = np.max(
        [
            np.abs(mean - means[0]) / (sd * math.sqrt(1 / n + 1 / sizes[0]))
            for mean, n in zip(means[1:], sizes[1:], strict=True)
        ],
        axis=0,
    )
    critical = dunnett_critical(0.05, df, dunnett_loadings(sizes[0], sizes[1:]))
    assert np.mean(largest > critical) == pytest.approx(
        0.05, abs=4 * math.sqrt(0.05 * 0.95 / draws)
    )


def test_one_arm_needs_no_correction() -> None:
    assert dunnett_critical(0.05, 8, [0.7]) == pytest.approx(stats.t.ppf(0.975, 8))


def test_critical_value_lies_between_single_and_bonferroni() -> None:
    single, bonferroni = stats.t.ppf(0.975, 6), stats.t.ppf(1 - 0.025 / 7, 6)
    assert single < dunnett_critical(0.05, 6, [0.9] * 7) < bonferroni


def test_critical_value_is_the_same_every_time_and_in_every_order() -> None:
    assert dunnett_critical(0.05, 9, [0.3, 0.8]) == dunnett_critical(0.05, 9, [0.8, 0.3])


def test_no_degrees_of_freedom_give_no_quantile() -> None:
    assert math.isnan(t_quantile(0.975, 0))
    assert math.isnan(dunnett_critical(0.05, 0, [0.5, 0.5]))


def test_loadings_of_unequal_correlations_take_the_smallest() -> None:
    covariance = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.4], [0.2, 0.4, 1.0]])
    assert loadings_from_covariance(covariance) == pytest.approx((math.sqrt(0.2),) * 3)
