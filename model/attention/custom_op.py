"""Wrap a kernel's forward and backward pass as one opaque operator with a gradient.

torch.compile cannot trace FlashAttention's autograd functions and would break the graph at every
layer. A custom operator remains in the graph; shapes and gradient are registered here once for all
kernels.

B batch, T tokens, H heads, K head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Attend = Callable[..., Tensor]
"""q, k, v (B, T, H, K) and a window in tokens -> (B, T, H, K). A back-end with document masks has
a further argument, its own mask (`MASKS` of model/attention)."""
Forward = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""q, k, v, window -> out (B, T, H, K), log-sum-exp of the scores (B, H, T) in fp32."""
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]
]
"""Gradient of out, q, k, v, out, log-sum-exp, window -> gradients of q, k, v."""
FULL = -1
"""The window argument of kernels for full causal attention."""
NAMESPACE = "gpt2_ablations"


def as_operator(name: str, forward: Forward, backward: Backward) -> Attend:
    """Register `name`_forward and `name`_backward; returns an attention function.

    Inputs of kernels have contiguous heads, and q, k and v may be slices of one tensor; outputs are
    new contiguous tensors.
    """

    @torch.library.custom_op(f"{NAMESPACE}::{name}_forward", mutates_args=())
    def run_forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
        return forward(q, k, v, window)

    @torch.library.custom_op(f"{NAMESPACE}::{name}_backward", mutates_args=())
    def run_backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        return backward(grad, q, k, v, out, lse, window)

    def differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        return *run_backward(grad.contiguous(), q, k, v, out, lse, ctx.window), None

    run_forward.register_fake(_shapes_forward)
    run_backward.register_fake(_shapes_backward)
    run_forward.register_autograd(differentiate, setup_context=_save_for_backward)

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        bound = FULL if window >= q.size(1) - 1 else window
        out, _ = run_forward(
            _contiguous_heads(q), _contiguous_heads(k), _contiguous_heads(v), bound
        )
        return out

    return attend


def _contiguous_heads(x: Tensor) -> Tensor:
    """(B, T, H, K) with contiguous heads and channels; a slice of a joint q, k, v qualifies."""
    return x if x.stride()[2:] == (x.size(3), 1) else x.contiguous()


def _shapes_forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty(batch, heads, tokens, dtype=torch.float32)


def _shapes_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output)
