"""Muon's elementwise steps in two passes: kernel `triton` of `muon`.

Besides its products, Muon consists of a dozen elementwise steps and norms in fp32, each a pass over
all matrices. Every norm is that of a matrix, row or column times known factors. The factors are
computed from these few numbers, and two passes remain: `update_momentum` reads gradient and
momentum, `apply_update` reads the update and writes the weights (LOG.md has the gain).

N matrices of one shape, R rows, C columns.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements per program


def update_momentum(gradients: Tensor, momentum: Tensor, mu: float, dtype: torch.dtype) -> Tensor:
    """Update `momentum` (N, R, C) in place; returns Nesterov's update in `dtype`."""
    update = torch.empty_like(gradients, dtype=dtype)
    count = gradients.numel()
    _update_momentum[(triton.cdiv(count, BLOCK),)](
        gradients, momentum, update, mu, count, BLOCK=BLOCK
    )
    return update


def apply_update(
    weights: Tensor, update: Tensor, factors: Tensor, decay: float, cautious: bool
) -> None:
    """weights -= factors update + decay weights, in place; weights (N, R, C) in fp32.

    `update` may be transposed; `factors` (N, R, 1) or (N, 1, C). With `cautious`, decay acts only
    where update and weight agree in sign.
    """
    matrices, rows, columns = weights.shape
    block = min(BLOCK, triton.next_power_of_2(columns))
    _apply_update[(matrices * rows, triton.cdiv(columns, block))](
        weights,
        update,
        factors,
        decay,
        rows,
        columns,
        *update.stride(),
        *factors.expand_as(weights).stride(),  # 0 for broadcast dimensions
        CAUTIOUS=cautious,
        BLOCK=block,
    )


@triton.jit
def _update_momentum(gradients_at, momentum_at, update_at, mu, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    gradient = tl.load(gradients_at + at, mask=inside)
    momentum = tl.load(momentum_at + at, mask=inside)
    momentum += (1 - mu) * (gradient - momentum)
    tl.store(momentum_at + at, momentum, mask=inside)
    update = gradient + mu * (momentum - gradient)
    tl.store(update_at + at, update.to(update_at.dtype.element_ty), mask=inside)


@triton.jit
def _apply_update(
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
    """One program per part of a row; the last six numbers before CAUTIOUS are strides."""
    flat_row = tl.program_id(0).to(tl.int64)
    matrix, row = flat_row // rows, flat_row % rows
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    weight = tl.load(weights_at + flat_row * columns + column, mask=inside)
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
    tl.store(weights_at + flat_row * columns + column, weight - step - decayed, mask=inside)
