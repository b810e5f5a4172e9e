"""Head, softcap and cross-entropy without materializing all logits: kernel `triton` of `loss`.

    loss_t = log sum_v exp(z_tv) - z_t,target      z = cap tanh(x W^T / cap), or x W^T without a cap

With torch, logits of 65,536 tokens and a vocabulary of 32,768 are written and read several times in
fp32, 8.6 GB each. Here rows are processed in chunks: one product computes a chunk's logits in bf16,
one kernel reads them twice and overwrites them with their gradient, two products compute the
gradients of x and W. The gradient of a mean loss is therefore complete after the forward pass, and
the backward pass only scales it. Computing gradients in the forward pass, chunk by chunk, follows
Liger-Kernel (arXiv 2410.10989) and quack (@tridao).

With trick `fp8` the three products use fp8 (model/kernels/fp8.py), and the kernel writes the
gradient of logits directly in e5m2. Its scale needs no pass over it: a logit's gradient is (p - 1
at the target) / N, reduced by the cap, so at most 1 / N, and close to it for an unexpected token.
modded-nanogpt found that static scales suffice for the head (@YouJiacheng).

N tokens, D width, V padded vocabulary, C rows of a chunk.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.config.memory import HEAD_CHUNK_TOKENS
from model.kernels.fp8 import E4M3, E5M2, Quantized, product, quantize

BLOCK = 8192  # logits of a row per iteration of a program
WARPS = 16
TILE = 128  # rows and columns of a transposed tile, in bytes; the size of a memory line


def mean_loss(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    cap: float | None,
    vocab: int,
    *,
    fp8: bool = False,
) -> Tensor:
    """The mean loss in nats of targets (N) from x (N, D) and weight (V, D) in fp32, with gradients.

    Only the first `vocab` of the V padded rows of `weight` count. `fp8` selects fp8 products.
    """
    loss: Tensor = _MeanLoss.apply(x, weight, targets, cap, vocab, fp8)
    return loss


@torch.no_grad()
def token_losses(
    x: Tensor, weight: Tensor, targets: Tensor, cap: float | None, vocab: int
) -> Tensor:
    """The loss of each token (N) in nats and fp32, without gradients."""
    weight = weight.to(x.dtype)
    losses = torch.empty(x.size(0), device=x.device, dtype=torch.float32)
    for rows in _chunks(x.size(0)):
        _cross_entropy(x[rows] @ weight.T, targets[rows], losses[rows], cap, vocab)
    return losses


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        cap: float | None,
        vocab: int,
        fp8: bool,
    ) -> Tensor:
        losses = torch.empty(x.size(0), device=x.device, dtype=torch.float32)
        products = _Fp8Products(x, weight) if fp8 else _Products(x, weight)
        for rows in _chunks(x.size(0)):
            logits = products.logits(rows)  # (C, V)
            gradient = products.gradient_buffer(logits)
            factor = products.factor
            _cross_entropy(
                logits, targets[rows], losses[rows], cap, vocab, gradient=gradient, factor=factor
            )
            products.backward(gradient, rows)
        ctx.save_for_backward(products.grad_x, products.grad_weight)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x.mul_(grad), grad_weight.mul_(grad), None, None, None, None


class _Products:
    """Logits of rows of x (N, D) by weight (V, D), and the gradients of both."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.x, self.cast_weight = x, weight.to(x.dtype)
        self.grad_x = torch.empty_like(x)
        self.grad_weight = torch.empty_like(weight, dtype=torch.float32)  # a tied table is bf16
        self.factor = 1 / x.size(0)  # on the gradient that the kernel writes

    def logits(self, rows: slice) -> Tensor:
        return self.x[rows] @ self.cast_weight.T

    def gradient_buffer(self, logits: Tensor) -> Tensor:
        return logits  # in place

    def backward(self, gradient: Tensor, rows: slice) -> None:
        """From the gradient of logits (C, V), set that of x and accumulate that of W."""
        torch.mm(gradient, self.cast_weight, out=self.grad_x[rows])
        _add_product(self.grad_weight, gradient.T, self.x[rows], first=rows.start == 0)


class _Fp8Products:
    """The same products in fp8."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.x8, self.weight8 = quantize(x, E4M3), quantize(weight, E4M3)
        self.weight8_transposed = self.weight8.transposed
        self.grad_x = torch.empty_like(x)
        self.grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        self.factor = torch.finfo(E5M2).max
        self.scale = torch.full_like(self.x8.scale, 1 / (self.factor * x.size(0)))

    def logits(self, rows: slice) -> Tensor:
        x8 = self._rows(rows)
        return product(x8, self.weight8, self.grad_x.dtype, "scaled_mm", fast=True)

    def gradient_buffer(self, logits: Tensor) -> Tensor:
        return torch.empty_like(logits, dtype=E5M2)

    def backward(self, gradient: Tensor, rows: slice) -> None:
        grad8, x8 = Quantized(gradient, self.scale), self._rows(rows)
        self.grad_x[rows] = product(grad8, self.weight8_transposed, self.grad_x.dtype, "scaled_mm")
        self.grad_weight += product(_transposed(grad8), x8.transposed, torch.float32, "scaled_mm")

    def _rows(self, rows: slice) -> Quantized:
        return Quantized(self.x8.values[rows], self.x8.scale)


def _chunks(tokens: int) -> list[slice]:
    return [
        slice(start, min(start + HEAD_CHUNK_TOKENS, tokens))
        for start in range(0, tokens, HEAD_CHUNK_TOKENS)
    ]


def _transposed(x: Quantized) -> Quantized:
    """`x.transposed`, tile by tile; torch's copy writes single bytes to separate memory lines."""
    rows, columns = x.values.shape
    transposed = torch.empty(columns, rows, device=x.values.device, dtype=x.values.dtype)
    _transpose[(triton.cdiv(rows, TILE), triton.cdiv(columns, TILE))](
        x.values.view(torch.int8),
        transposed.view(torch.int8),
        rows,
        columns,
        TILE=TILE,
        num_warps=8,
    )
    return Quantized(transposed, x.scale)


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total (fp32) = or += a b, both bf16, summed in fp32 by the product itself."""
    if first:
        torch.mm(a, b, out_dtype=torch.float32, out=total)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)


def _cross_entropy(
    logits: Tensor,
    targets: Tensor,
    losses: Tensor,
    cap: float | None,
    vocab: int,
    *,
    gradient: Tensor | None = None,
    factor: float = 0.0,
) -> None:
    """Write losses (C), and `gradient` (C, V) of logits times `factor`; `gradient` may alias
    `logits`."""
    _cross_entropy_row[(logits.size(0),)](
        logits,
        logits if gradient is None else gradient,
        targets,
        losses,
        factor,
        VOCAB=vocab,
        COLUMNS=logits.size(1),
        CAP=cap or 0.0,
        WITH_GRADIENT=gradient is not None,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


@triton.jit
def _cross_entropy_row(
    logits_at,
    gradients_at,
    targets_at,
    losses_at,
    factor,
    VOCAB: tl.constexpr,
    COLUMNS: tl.constexpr,
    CAP: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row: a first pass sums exponentials, a second writes the gradient."""
    row = tl.program_id(0).to(tl.int64)
    logits_at += row * COLUMNS
    gradients_at += row * COLUMNS
    target = tl.load(targets_at + row)
    largest, total = CAP, 0.0  # a cap bounds the exponents; without one the largest is tracked
    if CAP == 0:
        largest = -float("inf")
    for start in range(0, VOCAB, BLOCK):
        token = start + tl.arange(0, BLOCK)
        raw = tl.load(logits_at + token, mask=token < VOCAB, other=0.0).to(tl.float32)
        capped = tl.where(token < VOCAB, _capped(raw, CAP), -float("inf"))
        if CAP == 0:
            new = tl.maximum(largest, tl.max(capped, 0))
            total *= tl.exp(largest - new)
            largest = new
        total += tl.sum(tl.exp(capped - largest), 0)
    normaliser = largest + tl.log(total)
    at_target = _capped(tl.load(logits_at + target).to(tl.float32), CAP)
    tl.store(losses_at + row, normaliser - at_target)
    if WITH_GRADIENT:
        for start in range(0, COLUMNS, BLOCK):
            column = start + tl.arange(0, BLOCK)
            logit = tl.load(logits_at + column, mask=column < VOCAB, other=0.0).to(tl.float32)
            value = _capped(logit, CAP)
            gradient = tl.exp(value - normaliser) - tl.where(column == target, 1.0, 0.0)
            if CAP > 0:
                gradient *= 1 - (value / CAP) * (value / CAP)  # derivative of the cap
            gradient = tl.where(column < VOCAB, gradient * factor, 0.0)
            kind = gradients_at.dtype.element_ty
            tl.store(gradients_at + column, gradient.to(kind), mask=column < COLUMNS)


@triton.jit
def _transpose(from_at, to_at, rows, columns, TILE: tl.constexpr):
    """One program per tile of bytes (rows, columns)."""
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tile = tl.load(from_at + row[:, None] * columns + column[None, :], mask=inside, other=0)
    inside = (column < columns)[:, None] & (row < rows)[None, :]
    tl.store(to_at + column[:, None] * rows + row[None, :], tl.trans(tile), mask=inside)


@triton.jit
def _capped(logit, CAP: tl.constexpr):
    """CAP tanh(logit / CAP); tanh by one exponential, without overflow."""
    if CAP > 0:
        logit = CAP * (1 - 2 / (tl.exp(2 * (logit / CAP)) + 1))
    return logit
