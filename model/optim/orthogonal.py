"""Muon's matrix functions on stacks (N, m, n): orthogonalization and normalizations.

Orthogonalization replaces X by approximately U V^T of its singular value decomposition, with
matmuls only: five steps of X <- a X + b (X X^T) X + c (X X^T)^2 X. Newton-Schulz uses one triple
for all steps (@kellerjordan0, @jxbz); Polar Express optimizes the triple of each step (arXiv
2505.16932).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# bf16 rounding must not push a singular value above 1, where the iteration diverges
NORM_SAFETY = 1.01
NORM_EPS = 1e-6
MOMENT_FLOOR = 1e-10
FUSED_MULTIPLE = 8  # rows of whole 16 bytes


def coefficients(kind: str, iterations: int) -> list[tuple[float, float, float]]:
    """The triple (a, b, c) of each step."""
    if kind == "polar_express":
        return list(POLAR_EXPRESS[:iterations])
    return [NEWTON_SCHULZ] * iterations


@dataclass(frozen=True)
class Products:
    """The two symmetric products of a step."""

    gram: Callable[[Tensor], Tensor]
    """X -> X X^T."""
    polynomial: Callable[[Tensor, float, float], Tensor]
    """G, b, c -> b G + c G G."""


def products_of(kernel: str, rows: int, columns: int) -> Products:
    """Torch's batched products, or `quack`'s, which compute one half; gates are too narrow for
    quack."""
    if kernel == "quack" and rows % FUSED_MULTIPLE == columns % FUSED_MULTIPLE == 0:
        from model.kernels import products

        return Products(products.gram, products.symmetric_polynomial)
    return Products(
        lambda x: x @ x.mT, lambda gram, b, c: torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    )


def orthogonalize(
    x: Tensor, triples: list[tuple[float, float, float]], products: Products
) -> Tensor:
    """Set the singular values of x (N, m, n) near 1, in the type of x; needs `normalize`."""
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x  # the Gram matrix has the shorter side
    for a, b, c in triples:
        gram = products.gram(x)
        x = torch.baddbmm(x, products.polynomial(gram, b, c), x, beta=a)
    return x.mT if tall else x


def normalize(x: Tensor) -> Tensor:
    """Scale x (N, m, n) so that all singular values are below 1."""
    return x / (frobenius(x) * NORM_SAFETY + NORM_EPS)


def equalize_rows(x: Tensor, floor: float) -> Tensor:
    """MuonEq (arXiv 2603.28254): scale each row to norm |X|_F / sqrt(rows); row norms are at least
    `floor`."""
    target = frobenius(x) / x.size(-2) ** 0.5
    return x * (target / x.norm(dim=-1, keepdim=True).clamp_min(floor))


def renormalize_update(update: Tensor, floor: float) -> Tensor:
    """Muon+ (arXiv 2602.21545): scale to Frobenius norm sqrt(min(m, n)); norms are at least
    `floor`."""
    target = min(update.shape[-2:]) ** 0.5
    return update * (target / frobenius(update).clamp_min(floor))


def normalize_by_moment(update: Tensor, moment: Tensor, beta2: float) -> Tensor:
    """NorMuon (arXiv 2510.05491): divide by the root of a running mean square, preserving the
    Frobenius norm.

    One mean square per row if rows >= columns, else per column; no bias correction. `moment`
    (N, m, 1) or (N, 1, n) is updated in place.
    """
    along = -1 if update.size(-2) >= update.size(-1) else -2
    moment.lerp_(update.square().mean(dim=along, keepdim=True), 1 - beta2)
    normalized = update * moment.clamp_min(MOMENT_FLOOR).rsqrt()
    return normalized * (frobenius(update) / frobenius(normalized).clamp_min(MOMENT_FLOOR))


def frobenius(x: Tensor) -> Tensor:
    """|X|_F of each matrix of the stack, (N, 1, 1)."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)


def row_normalization_factors(x: Tensor, *, equalize: bool, floor: float) -> Tensor:
    """Combined row factors of `equalize_rows` (if on) and `normalize`: (N, m, 1)."""
    row = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    whole = torch.linalg.vector_norm(row, dim=-2, keepdim=True)  # unchanged by both steps
    factor = 1 / (whole * NORM_SAFETY + NORM_EPS)
    if not equalize:
        return factor.expand_as(row)
    return factor * whole / x.size(-2) ** 0.5 / row.clamp_min(floor)


def normalization_factors(
    update: Tensor,
    moment: Tensor | None,
    *,
    beta2: float | None,
    renormalize: bool,
    floor: float,
) -> Tensor:
    """Combined factors of `renormalize_update` and `normalize_by_moment` (each if on).

    Returns (N, m, 1) or (N, 1, n). `moment` is updated in place.
    """
    along = -1 if update.size(-2) >= update.size(-1) else -2
    norms = torch.linalg.vector_norm(update, dim=along, keepdim=True, dtype=torch.float32)
    whole = frobenius(norms)
    scale = torch.ones_like(whole)
    if renormalize:
        scale = min(update.shape[-2:]) ** 0.5 / whole.clamp_min(floor)
    if beta2 is None or moment is None:
        return scale.expand_as(norms)
    norms, whole = norms * scale, whole * scale
    moment.lerp_(norms.square() / update.size(along), 1 - beta2)
    normalized = moment.clamp_min(MOMENT_FLOOR).rsqrt()
    return scale * normalized * (whole / frobenius(norms * normalized).clamp_min(MOMENT_FLOOR))
