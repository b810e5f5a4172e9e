"""Head, softcap and cross-entropy without ever holding all logits: kernel `triton` of `loss`.

    loss_t = log sum_v exp(z_tv) - z_t,target      z = cap tanh(x W^T / cap), or x W^T without a cap

Done by torch, logits of 65,536 tokens and 32,768 words are written and read several times in fp32,
8.6 GB each. Here rows go in chunks: one product makes a chunk's logits in bf16, one kernel reads
them twice and leaves their gradient in the same place, two products carry that to x and W. So the
gradient of a mean loss is known when the forward pass ends, and the backward pass only scales it.
The idea of computing gradients in the forward pass, chunk by chunk, is that of Liger-Kernel
(arXiv 2410.10989) and quack (@tridao).

With trick `fp8` the three products are in 8 bits (model/kernels/fp8.py), and the kernel writes the
gradient of logits in e5m2 at once. Its scale needs no pass over it: a logit's gradient is
(p - 1 at the target) / N, less by the cap, so at most 1 / N, and close to it where a token was not
foreseen. modded-nanogpt found that static scales serve the head (@YouJiacheng).

N tokens, D width, V padded vocabulary, C rows of a chunk.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.config.memory import HEAD_CHUNK_TOKENS
from model.kernels.fp8 import E4M3, E5M2, Quantised, product, quantised

BLOCK = 8192  # logits of a row that a program holds at a time
WARPS = 16
TILE = 128  # rows and columns of a transposed tile; a line of memory has as many bytes


def mean_loss(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    cap: float | None,
    words: int,
    *,
    fp8: bool = False,
) -> Tensor:
    """The mean loss in nats of targets (N) from x (N, D) and weight (V, D) in fp32, with gradients.

    Of the V padded rows of `weight` the first `words` take part. With `fp8` products are in 8 bits.
    """
    loss: Tensor = _MeanLoss.apply(x, weight, targets, cap, words, fp8)
    return loss


@torch.no_grad()
def token_losses(
    x: Tensor, weight: Tensor, targets: Tensor, cap: float | None, words: int
) -> Tensor:
    """The loss of each token (N) in nats and fp32, without gradients."""
    weight = weight.to(x.dtype)
    losses = torch.empty(x.size(0), device=x.device, dtype=torch.float32)
    for rows in _chunks(x.size(0)):
        _lose(x[rows] @ weight.T, targets[rows], losses[rows], cap, words)
    return losses


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        cap: float | None,
        words: int,
        fp8: bool,
    ) -> Tensor:
        losses = torch.empty(x.size(0), device=x.device, dtype=torch.float32)
        products = _Fp8Products(x, weight) if fp8 else _Products(x, weight)
        for rows in _chunks(x.size(0)):
            logits = products.logits(rows)  # (C, V)
            gradient = products.room_for_gradient(logits)
            factor = products.factor
            _lose(logits, targets[rows], losses[rows], cap, words, gradient=gradient, factor=factor)
            products.carry(gradient, rows)
        ctx.save_for_backward(products.grad_x, products.grad_weight)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x.mul_(grad), grad_weight.mul_(grad), None, None, None, None


class _Products:
    """Logits of rows of x (N, D) by weight (V, D), and what their gradients say to both."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.x, self.low = x, weight.to(x.dtype)
        self.grad_x = torch.empty_like(x)
        self.grad_weight = torch.empty_like(weight, dtype=torch.float32)  # a tied table is bf16
        self.factor = 1 / x.size(0)  # of the gradient that the kernel writes

    def logits(self, rows: slice) -> Tensor:
        return self.x[rows] @ self.low.T

    def room_for_gradient(self, logits: Tensor) -> Tensor:
        return logits  # in the same place

    def carry(self, gradient: Tensor, rows: slice) -> None:
        """Carries the gradient of logits (C, V) to x and, added to that of earlier rows, W."""
        torch.mm(gradient, self.low, out=self.grad_x[rows])
        _add_product(self.grad_weight, gradient.T, self.x[rows], first=rows.start == 0)


class _Fp8Products:
    """The same in 8 bits."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.x8, self.weight8 = quantised(x, E4M3), quantised(weight, E4M3)
        self.weight8_transposed = self.weight8.transposed
        self.grad_x = torch.empty_like(x)
        self.grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        self.factor = torch.finfo(E5M2).max
        self.scale = torch.full_like(self.x8.scale, 1 / (self.factor * x.size(0)))

    def logits(self, rows: slice) -> Tensor:
        x8 = self._rows(rows)
        return product(x8, self.weight8, self.grad_x.dtype, "scaled_mm", fast=True)

    def room_for_gradient(self, logits: Tensor) -> Tensor:
        return torch.empty_like(logits, dtype=E5M2)

    def carry(self, gradient: Tensor, rows: slice) -> None:
        grad8, x8 = Quantised(gradient, self.scale), self._rows(rows)
        self.grad_x[rows] = product(grad8, self.weight8_transposed, self.grad_x.dtype, "scaled_mm")
        self.grad_weight += product(_transposed(grad8), x8.transposed, torch.float32, "scaled_mm")

    def _rows(self, rows: slice) -> Quantised:
        return Quantised(self.x8.values[rows], self.x8.scale)


def _chunks(tokens: int) -> list[slice]:
    return [
        slice(start, min(start + HEAD_CHUNK_TOKENS, tokens))
        for start in range(0, tokens, HEAD_CHUNK_TOKENS)
    ]


def _transposed(x: Quantised) -> Quantised:
    """`x.transposed`, tile by tile: torch's own copy writes byte after byte, each to another
    line."""
    rows, columns = x.values.shape
    turned = torch.empty(columns, rows, device=x.values.device, dtype=x.values.dtype)
    _transpose[(triton.cdiv(rows, TILE), triton.cdiv(columns, TILE))](
        x.values.view(torch.int8), turned.view(torch.int8), rows, columns, TILE=TILE, num_warps=8
    )
    return Quantised(turned, x.scale)


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total (fp32) = or += a b, both bf16, summed in fp32 by the product itself."""
    if first:
        torch.mm(a, b, out_dtype=torch.float32, out=total)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)


def _lose(
    logits: Tensor,
    targets: Tensor,
    losses: Tensor,
    cap: float | None,
    words: int,
    *,
    gradient: Tensor | None = None,
    factor: float = 0.0,
) -> None:
    """Writes losses (C), and `gradient` (C, V) of logits times `factor`, which may be written where
    the logits are."""
    _lose_row[(logits.size(0),)](
        logits,
        logits if gradient is None else gradient,
        targets,
        losses,
        factor,
        WORDS=words,
        COLUMNS=logits.size(1),
        CAP=cap or 0.0,
        WITH_GRADIENT=gradient is not None,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


@triton.jit
def _lose_row(
    logits_at,
    gradients_at,
    targets_at,
    losses_at,
    factor,
    WORDS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CAP: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row: a first pass sums exponentials, a second writes the gradient."""
    row = tl.program_id(0).to(tl.int64)
    logits_at += row * COLUMNS
    gradients_at += row * COLUMNS
    target = tl.load(targets_at + row)
    largest, total = CAP, 0.0  # a cap bounds the exponents; without one the largest is tracked
    if CAP == 0:
        largest = -float("inf")
    for start in range(0, WORDS, BLOCK):
        word = start + tl.arange(0, BLOCK)
        raw = tl.load(logits_at + word, mask=word < WORDS, other=0.0).to(tl.float32)
        capped = tl.where(word < WORDS, _capped(raw, CAP), -float("inf"))
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
            logit = tl.load(logits_at + column, mask=column < WORDS, other=0.0).to(tl.float32)
            value = _capped(logit, CAP)
            gradient = tl.exp(value - normaliser) - tl.where(column == target, 1.0, 0.0)
            if CAP > 0:
                gradient *= 1 - (value / CAP) * (value / CAP)  # of the cap itself
            gradient = tl.where(column < WORDS, gradient * factor, 0.0)
            kind = gradients_at.dtype.element_ty
            tl.store(gradients_at + column, gradient.to(kind), mask=column < COLUMNS)


@triton.jit
def _transpose(from_at, to_at, rows, columns, TILE: tl.constexpr):
    """One program a tile of bytes (rows, columns)."""
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
