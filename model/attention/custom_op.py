"""Makes one opaque operator with a gradient out of a kernel's forward and backward pass.

FlashAttention's own autograd functions cannot be looked into by torch.compile: it would break the
graph at every layer. As a custom operator the call stays in the graph, and what torch must know of
it, shapes and gradient, is said here once for all kernels.

B batch, T tokens, H heads, K head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Attend = Callable[..., Tensor]
"""q, k, v (B, T, H, K) and a window in tokens -> (B, T, H, K). A back-end with document masks also
takes one, which it made itself (`MASKS` of model/attention)."""
Forward = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""q, k, v, window -> out (B, T, H, K), log-sum-exp of the scores (B, H, T) in fp32."""
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]
]
"""Gradient of out, q, k, v, out, log-sum-exp, window -> gradients of q, k, v."""
FULL = -1
"""The window that kernels get where every earlier key is seen."""
NAMESPACE = "gpt2_ablations"


def as_operator(name: str, forward: Forward, backward: Backward) -> Attend:
    """Registers `name`_forward and `name`_backward; returns the attention that calls them.

    Kernels get tensors whose heads are contiguous, q, k and v possibly as parts of one tensor, and
    return new, contiguous ones.
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
    run_forward.register_autograd(differentiate, setup_context=_keep_for_backward)

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        reach = FULL if window >= q.size(1) - 1 else window
        out, _ = run_forward(_whole_heads(q), _whole_heads(k), _whole_heads(v), reach)
        return out

    return attend


def _whole_heads(x: Tensor) -> Tensor:
    """(B, T, H, K) with its heads side by side and their channels too, as a slice of q, k, v is."""
    return x if x.stride()[2:] == (x.size(3), 1) else x.contiguous()


def _shapes_forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty(batch, heads, tokens, dtype=torch.float32)


def _shapes_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output)
