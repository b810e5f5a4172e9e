"""Quantiles of Student's t, and of the largest of several correlated t statistics (Dunnett).

Several arms that are compared with one base share the base's error, so Bonferroni would be too
wide. scipy has Dunnett's test but not the critical value for unequal numbers of runs, and its
p-values come from random draws; here both come from a quadrature and are the same every time. Pure:
numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NORMAL_FROM_DF = 1e6  # beyond it Student's t and the normal agree to every printed digit


@lru_cache(maxsize=4096)
def t_quantile(probability: float, df: float) -> float:
    """Student's t quantile; the normal one for infinite df; NaN without degrees of freedom."""
    from scipy import special

    if not df > 0:
        return math.nan
    if df > _NORMAL_FROM_DF:
        return float(special.ndtri(probability))
    return float(special.stdtrit(df, probability))


def t_one_sided_p(statistic: float, df: float) -> float:
    """P(T >= statistic) of Student's t with `df` degrees of freedom."""
    from scipy import special

    return float(special.stdtr(df, -statistic))


def t_two_sided_p(statistic: float, df: float) -> float:
    """P(|T| >= |statistic|) of Student's t with `df` degrees of freedom."""
    from scipy import special

    if df > _NORMAL_FROM_DF:
        return float(2 * special.ndtr(-abs(statistic)))
    return float(2 * special.stdtr(df, -abs(statistic)))


def dunnett_loadings(n_control: int, n_arms: Sequence[int]) -> tuple[float, ...]:
    """b_i with corr(i, j) = b_i b_j: contrasts of `n_arms` runs with a control of `n_control`."""
    return tuple(math.sqrt(n / (n + n_control)) for n in n_arms)


def loadings_from_covariance(covariance: Floats) -> tuple[float, ...]:
    """Loadings for contrasts of any covariance (k, k): the smallest correlation, for all alike.

    Exact where all correlations are equal (complete blocks). Elsewhere it understates some of them,
    which widens the intervals a little and never narrows them.
    """
    k = len(covariance)
    if k < 2:
        return (0.0,) * k
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scale, scale)
    smallest = float(correlation[~np.eye(k, dtype=bool)].min())
    return (math.sqrt(max(smallest, 0.0)),) * k


def dunnett_critical(alpha: float, df: float, loadings: Sequence[float]) -> float:
    """The two-sided c with P(all |T_i| <= c) = 1 - alpha; k = len(loadings) arms, any sizes.

    T is the multivariate t of Dunnett (JASA 50 (1955) 1096-1121) with corr(i, j) = b_i b_j. Its
    probability is a double integral, over the control's error and over the estimated SD, taken by
    Gauss-Legendre: the same answer every time, good to about 1e-8.
    """
    return _dunnett_critical(alpha, float(df), tuple(sorted(loadings)))


@lru_cache(maxsize=1024)
def _dunnett_critical(alpha: float, df: float, loadings: tuple[float, ...]) -> float:
    from scipy import optimize

    if not df > 0:
        return math.nan
    lowest = t_quantile(1 - alpha / 2, df)
    if len(loadings) < 2:
        return lowest
    highest = t_quantile(1 - alpha / (2 * len(loadings)), df)  # Bonferroni bounds it from above
    return float(
        optimize.brentq(
            lambda c: max_abs_t_probability(c, df, loadings) - (1 - alpha),
            lowest * (1 - 1e-9),
            highest * (1 + 1e-9),
            xtol=1e-9,
        )
    )


def max_abs_t_probability(c: float, df: float, loadings: Sequence[float]) -> float:
    """P(all |T_i| <= c) of the multivariate t with corr(i, j) = b_i b_j, by quadrature."""
    from scipy import special

    scales, scale_weights = sd_nodes(float(df))
    normals, normal_weights = _normal_nodes()
    product: Any = 1.0
    for loading in sorted(set(loadings)):
        rest = math.sqrt(1 - loading**2)
        shift = loading * normals[None, :]
        limit = c * scales[:, None]
        inside = special.ndtr((limit - shift) / rest) - special.ndtr((-limit - shift) / rest)
        product = product * inside ** list(loadings).count(loading)
    return float(scale_weights @ product @ normal_weights)


@lru_cache(maxsize=1)
def _normal_nodes() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(96)
    z = 8.5 * nodes
    return z, 8.5 * weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


@lru_cache(maxsize=256)
def sd_nodes(df: float) -> tuple[Floats, Floats]:
    """Nodes and weights over the estimated SD / true SD, a chi variable over sqrt(df)."""
    from scipy import special

    if df > _NORMAL_FROM_DF:
        return np.ones(1), np.ones(1)
    low = math.sqrt(special.chdtri(df, 1 - 1e-13) / df)
    high = math.sqrt(special.chdtri(df, 1e-13) / df)
    nodes, weights = np.polynomial.legendre.leggauss(96)
    u = (nodes + 1) / 2  # squared below: crowds the nodes where few df need them, near zero
    s = low + (high - low) * u**2
    log_density = (
        (df - 1) * np.log(s)
        - df * s**2 / 2
        + (df / 2) * math.log(df)
        - (df / 2 - 1) * math.log(2)
        - special.gammaln(df / 2)
    )
    return s, weights / 2 * 2 * u * (high - low) * np.exp(log_density)
