"""The matrix functions of Muon on stacks (N, m, n): orthogonalising, evening out, renormalising.

Orthogonalising replaces X by about U V^T of its singular value decomposition with matmuls alone:
five steps of X <- a X + b (X X^T) X + c (X X^T)^2 X. Newton-Schulz uses one triple for all steps
(@kellerjordan0, @jxbz); Polar Express optimises the triple of each step (arXiv 2505.16932).
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
NORM_SAFETY = (
    1.01  # bf16 rounding must not push a singular value above 1, where the iteration diverges
)
NORM_EPS = 1e-6
MOMENT_FLOOR = 1e-10
FUSED_MULTIPLE = 8  # rows of whole 16 bytes


def coefficients(kind: str, iterations: int) -> list[tuple[float, float, float]]:
    """The triples (a, b, c) of each step."""
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
    those."""
    if kernel == "quack" and rows % FUSED_MULTIPLE == columns % FUSED_MULTIPLE == 0:
        from model.kernels import products

        return Products(products.gram, products.symmetric_polynomial)
    return Products(
        lambda x: x @ x.mT, lambda gram, b, c: torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    )


def orthogonalise(
    x: Tensor, triples: list[tuple[float, float, float]], products: Products
) -> Tensor:
    """`normalised` x (N, m, n) with singular values brought near 1; computed in the type of x."""
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x  # the Gram matrix has the shorter side
    for a, b, c in triples:
        gram = products.gram(x)
        x = torch.baddbmm(x, products.polynomial(gram, b, c), x, beta=a)
    return x.mT if tall else x


def normalised(x: Tensor) -> Tensor:
    """x (N, m, n) with all singular values below 1."""
    return x / (frobenius(x) * NORM_SAFETY + NORM_EPS)


def equalize_rows(x: Tensor, floor: float) -> Tensor:
    """MuonEq (arXiv 2603.28254): each row to norm |X|_F / sqrt(rows); rows of a norm below `floor`
    are multiplied as if they had that norm."""
    target = frobenius(x) / x.size(-2) ** 0.5
    return x * (target / x.norm(dim=-1, keepdim=True).clamp_min(floor))


def renormalise(update: Tensor, floor: float) -> Tensor:
    """Muon+ (arXiv 2602.21545): Frobenius norm sqrt(min(m, n)), from a norm of at least `floor`."""
    target = min(update.shape[-2:]) ** 0.5
    return update * (target / frobenius(update).clamp_min(floor))


def even_out(update: Tensor, moment: Tensor, beta2: float) -> Tensor:
    """NorMuon (arXiv 2510.05491): divides by the root of a running mean square, Frobenius norm
    kept.

    The mean square is one a row where rows >= columns, else one a column; no bias correction.
    `moment` (N, m, 1) or (N, 1, n) is updated in place.
    """
    along = -1 if update.size(-2) >= update.size(-1) else -2
    moment.lerp_(update.square().mean(dim=along, keepdim=True), 1 - beta2)
    evened = update * moment.clamp_min(MOMENT_FLOOR).rsqrt()
    return evened * (frobenius(update) / frobenius(evened).clamp_min(MOMENT_FLOOR))


def frobenius(x: Tensor) -> Tensor:
    """|X|_F of each matrix of the stack, (N, 1, 1)."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)


def row_factors(x: Tensor, *, equalize: bool, floor: float) -> Tensor:
    """What `equalize_rows` (where on) and `normalised` multiply rows by, in one: (N, m, 1)."""
    row = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    whole = torch.linalg.vector_norm(row, dim=-2, keepdim=True)  # neither step changes it
    factor = 1 / (whole * NORM_SAFETY + NORM_EPS)
    if not equalize:
        return factor.expand_as(row)
    return factor * whole / x.size(-2) ** 0.5 / row.clamp_min(floor)


def evening_factors(
    update: Tensor,
    moment: Tensor | None,
    *,
    beta2: float | None,
    renormalize: bool,
    floor: float,
) -> Tensor:
    """What `renormalise` and `even_out` (each where on) multiply by: (N, m, 1) or (N, 1, n).

    `moment` is moved on in place, as `even_out` does.
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
    evened = moment.clamp_min(MOMENT_FLOOR).rsqrt()
    return scale * evened * (whole / frobenius(norms * evened).clamp_min(MOMENT_FLOOR))
