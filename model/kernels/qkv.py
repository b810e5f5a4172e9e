"""Queries, keys and values with rotation and norm in one step: kernel `triton` of `qkv`.

    u = rotate(x W^T);  q = scale u / rms(u), and so k;  v = x W^T       x (B, T, D), q (B, T, H, K)

The compiler needs six passes over q and k, and as many backward. Here one kernel rotates and norms
q and k in place. Another kernel writes the gradients of all three side by side, so that a single
product computes the gradient of x. The backward pass uses only the final q and k, which attention
saves anyway: it inverts the norm with the saved root mean square, and the rotation by rotating
back.

B batch, T tokens, D width, H heads, K head width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.attention.custom_op import NAMESPACE

ROWS = 32  # heads of tokens per program
EPS = torch.finfo(torch.float32).eps  # as torch's rms_norm


def normed_heads(
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    cos_sin: tuple[Tensor, Tensor] | None,
    scale: float | None,
    heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (B, T, H, K) of x (B, T, D).

    `weights` of q, k and v, each (D, D) in fp32; `cos_sin` cosine and sine (T, K / 2), or
    (B, T, 1, K / 2) if rows differ, None without rotation; `scale` follows the norm, None without
    norm.
    """
    cos, sin = cos_sin if cos_sin is not None else (x.new_empty(0), x.new_empty(0))
    if cos.ndim == 4:
        cos, sin = cos.flatten(0, 2), sin.flatten(0, 2)  # one position per token of the batch
    q, k, v, *_ = _forward(x, *weights, cos, sin, scale or 0.0, heads)
    return q, k, v


@torch.library.custom_op(f"{NAMESPACE}::normed_heads_forward", mutates_args=())
def _forward(
    x: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
    heads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, scale / rms of every head of q and k (2, B T H), the weights (3 D, D) like x."""
    shape = (*x.shape[:2], heads, x.size(2) // heads)
    joint_weight = torch.cat((query, key, value)).to(x.dtype)
    q, k, v = ((x @ weight.T).view(shape) for weight in joint_weight.chunk(3))
    rows = q.numel() // q.size(3)
    roots = torch.empty(2, rows, device=x.device, dtype=torch.float32)
    for part, root in ((q, roots[0]), (k, roots[1])):
        _rotate_and_norm[(triton.cdiv(rows, ROWS),)](
            part, cos, sin, root, rows, _positions(cos), scale, EPS, **_constants(part, cos, scale)
        )
    return q, k, v, roots, joint_weight


@_forward.register_fake
def _(
    x: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
    heads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape = (*x.shape[:2], heads, x.size(2) // heads)
    rows = x.size(0) * x.size(1) * heads
    roots = x.new_empty((2, rows), dtype=torch.float32)
    joint_weight = x.new_empty(3 * query.size(0), query.size(1))
    return x.new_empty(shape), x.new_empty(shape), x.new_empty(shape), roots, joint_weight


@torch.library.custom_op(f"{NAMESPACE}::normed_heads_backward", mutates_args=())
def _backward(
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    q: Tensor,
    k: Tensor,
    roots: Tensor,
    joint_weight: Tensor,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x and of the three weights."""
    flat = x.flatten(0, 1)
    tokens, width = flat.shape
    rows = roots.size(1)
    grad = torch.empty(tokens, 3, width, device=x.device, dtype=x.dtype)
    _rotate_and_norm_backward[(triton.cdiv(rows, ROWS), 3)](
        grad_q,
        grad_k,
        grad_v,
        q,
        k,
        roots,
        cos,
        sin,
        grad,
        rows,
        _positions(cos),
        scale,
        **_constants(q, cos, scale),
    )
    grad_x = (grad.flatten(1) @ joint_weight).view_as(x)
    grad_query, grad_key, grad_value = (
        torch.mm(grad[:, part].T, flat, out_dtype=torch.float32) for part in range(3)
    )
    return grad_x, grad_query, grad_key, grad_value


@_backward.register_fake
def _(
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    q: Tensor,
    k: Tensor,
    roots: Tensor,
    joint_weight: Tensor,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (x.size(2), x.size(2))
    grad_query, grad_key, grad_value = (x.new_empty(shape, dtype=torch.float32) for _ in range(3))
    return x.new_empty(x.shape), grad_query, grad_key, grad_value


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *_, cos, sin, ctx.scale, _ = inputs
    q, k, _, roots, joint_weight = output
    ctx.save_for_backward(q, k, roots, joint_weight, x, cos, sin)


def _differentiate(
    ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, *_: Tensor
) -> tuple[Tensor | None, ...]:
    grads = (grad.contiguous() for grad in (grad_q, grad_k, grad_v))
    return *_backward(*grads, *ctx.saved_tensors, ctx.scale), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)


def _positions(cos: Tensor) -> int:
    """Number of positions after which the tables repeat."""
    return max(1, cos.size(0))


def _constants(q: Tensor, cos: Tensor, scale: float) -> dict[str, Any]:
    return {
        "HEADS": q.size(2),
        "HALF": q.size(3) // 2,
        "ROTARY": cos.numel() > 0,
        "NORM": scale > 0,
        "ROWS": ROWS,
        "num_warps": 4,
    }


# no specialization on lengths: an evaluation has a hundred of them
@triton.jit(do_not_specialize=["rows", "positions"])
def _rotate_and_norm(
    x_at,
    cos_at,
    sin_at,
    roots_at,
    rows,
    positions,
    scale,
    eps,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    ROTARY: tl.constexpr,
    NORM: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Rotate and norm heads (rows, 2 HALF) in place; store the factor of each."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, HALF)[None, :]
    inside = (row < rows)[:, None]
    at = row[:, None] * (2 * HALF) + channel
    first = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_at + at + HALF, mask=inside, other=0.0).to(tl.float32)
    if ROTARY:
        angle = ((row // HEADS) % positions)[:, None] * HALF + channel
        cos = tl.load(cos_at + angle).to(tl.float32)
        sin = tl.load(sin_at + angle).to(tl.float32)
        rotated = first * cos + second * sin
        second = second * cos - first * sin
        first = rotated
    if NORM:
        square = tl.sum(first * first, 1) + tl.sum(second * second, 1)
        root = scale * tl.rsqrt(square / (2 * HALF) + eps)
        tl.store(roots_at + row, root, mask=row < rows)
        first *= root[:, None]
        second *= root[:, None]
    dtype = x_at.dtype.element_ty
    tl.store(x_at + at, first.to(dtype), mask=inside)
    tl.store(x_at + at + HALF, second.to(dtype), mask=inside)


@triton.jit(do_not_specialize=["rows", "positions"])
def _rotate_and_norm_backward(
    grad_q_at,
    grad_k_at,
    grad_v_at,
    q_at,
    k_at,
    roots_at,
    cos_at,
    sin_at,
    grad_at,
    rows,
    positions,
    scale,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    ROTARY: tl.constexpr,
    NORM: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Gradients of q, k, v (rows, 2 HALF) -> gradients of the products (tokens, 3, H, K)."""
    part = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, HALF)[None, :]
    inside = (row < rows)[:, None]
    at = row[:, None] * (2 * HALF) + channel
    source = grad_v_at
    if part == 0:
        source = grad_q_at
    if part == 1:
        source = grad_k_at
    first = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + at + HALF, mask=inside, other=0.0).to(tl.float32)
    if part < 2:
        if NORM:
            normed = q_at
            if part == 1:
                normed = k_at
            a = tl.load(normed + at, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(normed + at + HALF, mask=inside, other=0.0).to(tl.float32)
            root = tl.load(roots_at + part * rows + row, mask=row < rows, other=0.0)[:, None]
            along = tl.sum(first * a + second * b, 1)[:, None] / (2 * HALF * scale * scale)
            first = root * (first - along * a)
            second = root * (second - along * b)
        if ROTARY:
            angle = ((row // HEADS) % positions)[:, None] * HALF + channel
            cos = tl.load(cos_at + angle).to(tl.float32)
            sin = tl.load(sin_at + angle).to(tl.float32)
            rotated = first * cos - second * sin
            second = first * sin + second * cos
            first = rotated
    width = HEADS * 2 * HALF
    token, head = row // HEADS, row % HEADS
    to = (token * 3 * width + part * width + head * (2 * HALF))[:, None] + channel
    dtype = grad_at.dtype.element_ty
    tl.store(grad_at + to, first.to(dtype), mask=inside)
    tl.store(grad_at + to + HALF, second.to(dtype), mask=inside)
