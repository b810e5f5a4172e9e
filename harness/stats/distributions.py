"""Quantiles of Student's t, and a quadrature over an estimated SD. Numbers in, numbers out."""

import math
from functools import lru_cache

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
