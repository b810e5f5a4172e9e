"""Muon's passes over all matrices, in few: kernel `triton` of `muon`.

Around its products, Muon is a dozen elementwise steps and norms in fp32, each a pass over all
matrices. Every norm in it is that of a matrix, row or column times known factors, so factors are
worked out on those few numbers, and two passes are left: `advance` reads gradient and momentum,
`apply` reads the update and writes the weights (LOG.md has the gain).

N matrices of one shape, R rows, C columns.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements that a program takes at a time


def advance(gradients: Tensor, momentum: Tensor, mu: float, dtype: torch.dtype) -> Tensor:
    """Moves `momentum` (N, R, C) on in place; returns Nesterov's update in `dtype`."""
    update = torch.empty_like(gradients, dtype=dtype)
    count = gradients.numel()
    _advance[(triton.cdiv(count, BLOCK),)](gradients, momentum, update, mu, count, BLOCK=BLOCK)
    return update


def apply(weights: Tensor, update: Tensor, factors: Tensor, decay: float, cautious: bool) -> None:
    """weights -= factors update + decay weights, in place; weights (N, R, C) in fp32.

    `update` may be transposed; `factors` (N, R, 1) or (N, 1, C). With `cautious`, decay acts only
    where update and weight agree in sign.
    """
    matrices, rows, columns = weights.shape
    block = min(BLOCK, triton.next_power_of_2(columns))
    _apply[(matrices * rows, triton.cdiv(columns, block))](
        weights,
        update,
        factors,
        decay,
        rows,
        columns,
        *update.stride(),
        *factors.expand_as(weights).stride(),  # 0 along what is repeated
        CAUTIOUS=cautious,
        BLOCK=block,
    )


@triton.jit
def _advance(gradients_at, momentum_at, update_at, mu, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    gradient = tl.load(gradients_at + at, mask=inside)
    momentum = tl.load(momentum_at + at, mask=inside)
    momentum += (1 - mu) * (gradient - momentum)
    tl.store(momentum_at + at, momentum, mask=inside)
    update = gradient + mu * (momentum - gradient)
    tl.store(update_at + at, update.to(update_at.dtype.element_ty), mask=inside)


@triton.jit
def _apply(
    weights_at,
    update_at,
    factors_at,
    decay,
    rows,
    columns,
    update_n,
    update_r,
    update_c,
    factor_n,
    factor_r,
    factor_c,
    CAUTIOUS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a stretch of a row; the last six numbers before CAUTIOUS are strides."""
    line = tl.program_id(0).to(tl.int64)
    matrix, row = line // rows, line % rows
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    weight = tl.load(weights_at + line * columns + column, mask=inside)
    update = tl.load(
        update_at + matrix * update_n + row * update_r + column * update_c, mask=inside
    ).to(tl.float32)
    factor = tl.load(
        factors_at + matrix * factor_n + row * factor_r + column * factor_c, mask=inside
    )
    step = factor * update
    decayed = decay * weight
    if CAUTIOUS:
        decayed = tl.where(update * weight >= 0, decayed, 0.0)
    tl.store(weights_at + line * columns + column, weight - step - decayed, mask=inside)
