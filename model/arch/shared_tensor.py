"""One tensor for several readers, as separate views; their gradients are summed at once.

Some tricks pass the same tensor to every layer (x0 of the residual scalars, embedded token pairs).
Autograd adds such gradients one by one, with an additional read and write per layer (LOG.md).
Separate views also prevent a block from receiving one tensor as both stream and x0, which would be
a separate kind of block for the compiler.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class FanOut(torch.autograd.Function):
    """One view of x per reader; `total` sums their gradients in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, readers: int, total: Callable[[tuple[Tensor, ...]], Tensor]
    ) -> tuple[Tensor, ...]:
        ctx.total = total
        return tuple(x.view_as(x) for _ in range(readers))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.total(grads), None, None


def sum_gradients(grads: tuple[Tensor, ...]) -> Tensor:
    """Sum of gradients, rounded once; a single pass when compiled."""
    total = grads[0].float()
    for grad in grads[1:]:
        total = total + grad
    return total.to(grads[0].dtype)
