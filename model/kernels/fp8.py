"""Trick `fp8`: the products of Linears in 8 bits.

    y = s_x s_w Q(x) Q(w)^T        Q(x) = round(x / s_x),  s_x = max |x| / M

x (N, C), w (R, C); gradients dx = s_g s_w Q(g) Q(w) and dw = s_g s_x Q(g)^T Q(x) from those of y,
g (N, R). Values and weights are rounded to e4m3 (3 bits of mantissa, M = 448), gradients of values
to e5m2 (2 bits, M = 57,344), each tensor with one scale that its largest magnitude sets anew every
time; products are summed in fp32, or forward in what Hopper's faster sums keep of it. Why it should
help: a GPU's tensor cores do twice as many products a second in 8 bits as in 16. A scale is there
for range alone (between the largest value and the smallest normal one lie 2^15 in e4m3, 2^30 in
e5m2), so queries, keys and values, whose weights are joined for one product, share one. Source:
arXiv 2209.05433 (Micikevicius and others), the tensorwise recipe of torchao (@vkuzo, @drisspg);
nanochat 2026-02 (@karpathy), whose rule is ours: Linears whose sides are multiples of 16 and at
least 128, the head included.

Off: products in the compute type. Evaluations run with it off in any case, so that val_bpb speaks
of the same arithmetic whatever the arm. Interactions: a scale is that of one pass on one rank, so
other rows a pass or other ranks round otherwise; the fused kernels of `qkv` and of the blocks'
`products` multiply in bf16 and leave their places to torch; Muon's products stay as they are. The
fused `loss` has products in 8 bits of its own (model/kernels/loss.py).

The computation is one, its products are done in two ways: `scaled_mm`, by the GPU, and `emulated`,
which multiplies the same rounded values in fp32 and runs everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.config import Fp8 as Settings
from model.config.shapes import fp8_takes

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
# below it a scale's reciprocal would be infinite in fp32; a tensor of zeros comes here too
LEAST_MAGNITUDE = 1e-30


class Fp8:
    """Which products run in 8 bits, by which kernel, and whether they do so now."""

    def __init__(self, settings: Settings, kernel: str) -> None:
        self.kernel, self.head = kernel, settings.head
        self.in_use = False

    @contextmanager
    def training(self) -> Iterator[None]:
        """Everything inside is a forward pass of training; elsewhere products are not in 8 bits."""
        self.in_use = True
        try:
            yield
        finally:
            self.in_use = False

    def takes(self, weight: Tensor) -> bool:
        """Whether products with a weight (R, C) now run in 8 bits."""
        return self.in_use and fp8_takes(*weight.shape)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., C), weight (R, C) -> (..., R) in the type of x."""
        y: Tensor = _Product.apply(x.flatten(0, -2), weight, self.kernel)
        return y.view(*x.shape[:-1], weight.size(0))


@dataclass(frozen=True)
class Quantised:
    """A matrix as `values` times `scale`."""

    values: Tensor
    """8 bits, row-major."""
    scale: Tensor
    """fp32, no dimensions."""

    @property
    def transposed(self) -> "Quantised":
        """The transposed matrix, row-major."""
        return Quantised(self.values.t().contiguous(), self.scale)


def quantised(x: Tensor, kind: torch.dtype) -> Quantised:
    """x rounded to `kind`, so that its largest magnitude becomes the largest of the kind."""
    most = torch.finfo(kind).max
    largest = x.abs().amax().float().clamp_min(LEAST_MAGNITUDE)
    # nothing is clamped: the largest may exceed `most` by a rounding of fp32, which the next
    # rounding takes away
    values = (x.float() * (most / largest)).to(kind)
    return Quantised(values.contiguous(), largest / most)


def product(
    a: Quantised, b: Quantised, out: torch.dtype, kernel: str, *, fast: bool = False
) -> Tensor:
    """a (N, K) times b (R, K) transposed: (N, R) in `out`.

    Both are row-major, as the tensor cores of Hopper want them. `fast` lets those keep partial sums
    in fewer bits than fp32.
    """
    if kernel == "emulated":
        exact = a.values.float() @ b.values.float().t()
        return (exact * a.scale * b.scale).to(out)
    return torch._scaled_mm(
        a.values,
        b.values.t(),
        scale_a=a.scale,
        scale_b=b.scale,
        out_dtype=out,
        use_fast_accum=fast,
    )


class _Product(torch.autograd.Function):
    """x w^T and both gradients, of x (N, C) and w (R, C); keeps both in 8 bits alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kernel: str) -> Tensor:
        x8, weight8 = quantised(x, E4M3), quantised(weight, E4M3)
        ctx.save_for_backward(x8.values, x8.scale, weight8.values, weight8.scale)
        ctx.kernel, ctx.weight_type = kernel, weight.dtype
        # fast sums forward and exact ones backward, as torchao and nanochat have them
        return product(x8, weight8, x.dtype, kernel, fast=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x_values, x_scale, weight_values, weight_scale = ctx.saved_tensors
        x8, weight8 = Quantised(x_values, x_scale), Quantised(weight_values, weight_scale)
        grad8 = quantised(grad, E5M2)
        grad_x = product(grad8, weight8.transposed, grad.dtype, ctx.kernel)
        grad_weight = product(grad8.transposed, x8.transposed, ctx.weight_type, ctx.kernel)
        return grad_x, grad_weight, None
