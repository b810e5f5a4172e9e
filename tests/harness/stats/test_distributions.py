"""Quantiles and p-values of Student's t against scipy."""

import math

import pytest
from scipy import stats

from harness.stats.distributions import t_quantile, t_two_sided_p


@pytest.mark.parametrize(("df", "alpha"), [(3, 0.05), (17.4, 0.05), (200, 0.01)])
def test_t_quantiles_and_p_values_equal_scipy(df: float, alpha: float) -> None:
    assert t_quantile(1 - alpha, df) == pytest.approx(stats.t.ppf(1 - alpha, df))
    assert t_two_sided_p(1.7, df) == pytest.approx(2 * stats.t.sf(1.7, df))


def test_no_degrees_of_freedom_give_no_quantile() -> None:
    assert math.isnan(t_quantile(0.975, 0))
