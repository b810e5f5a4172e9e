"""Quantiles and p-values of Student's t, and the quadrature over an SD, against scipy."""

import math

import pytest
from scipy import stats

from harness.stats.distributions import sd_nodes, t_one_sided_p, t_quantile, t_two_sided_p


@pytest.mark.parametrize(("df", "alpha"), [(3, 0.05), (17.4, 0.05), (200, 0.01), (1e7, 0.05)])
def test_t_quantiles_and_p_values_equal_scipy(df: float, alpha: float) -> None:
    assert t_quantile(1 - alpha, df) == pytest.approx(stats.t.ppf(1 - alpha, df))
    assert t_two_sided_p(-1.7, df) == t_two_sided_p(1.7, df)
    assert t_two_sided_p(1.7, df) == pytest.approx(2 * stats.t.sf(1.7, df))
    assert t_one_sided_p(1.7, df) == pytest.approx(stats.t.sf(1.7, df))


@pytest.mark.parametrize("df", [1, 2, 3.5, 30, 1e4, 1e7])
def test_the_nodes_of_an_sd_integrate_a_chi_distribution(df: float) -> None:
    sd, weights = sd_nodes(df)
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert weights @ sd == pytest.approx(stats.chi.mean(df) / math.sqrt(df), abs=1e-7)
    assert weights @ sd**2 == pytest.approx(1.0, abs=1e-9)


def test_no_degrees_of_freedom_give_no_quantile() -> None:
    assert math.isnan(t_quantile(0.975, 0))
