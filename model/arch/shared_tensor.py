"""One tensor for several readers, each under a name of its own; their gradients are summed at once.

Some tricks give every layer the same tensor (x0 of the residual scalars, the rows of token pairs).
Added up as they come, as autograd does, its gradients are read and written twice more for every
layer (LOG.md). A name of its own also keeps a block from getting one tensor as both stream and x0,
which would make it a kind of its own when blocks are compiled.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class FanOut(torch.autograd.Function):
    """A tensor under as many names as it has readers; `total` sums what comes back."""

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
    """Their sum, rounded once; compiled, also one pass."""
    total = grads[0].float()
    for grad in grads[1:]:
        total = total + grad
    return total.to(grads[0].dtype)
