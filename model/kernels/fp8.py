"""Trick `fp8`: matrix products of Linears in fp8.

    y = s_x s_w Q(x) Q(w)^T        Q(x) = round(x / s_x),  s_x = max |x| / M

x (N, C), w (R, C); gradients dx = s_g s_w Q(g) Q(w) and dw = s_g s_x Q(g)^T Q(x) from those of y, g
(N, R). Values and weights are rounded to e4m3 (3 bits of mantissa, M = 448), gradients of values to
e5m2 (2 bits, M = 57,344). Each tensor has one scale, computed from its current maximum magnitude.
Products are accumulated in fp32, forward with Hopper's faster, less precise accumulation. Why it
should help: tensor cores compute twice as many products per second in 8 bits as in 16. A scale only
provides range (between the largest value and the smallest normal one lie 2^15 in e4m3, 2^30 in
e5m2), so queries, keys and values, whose weights are joined for one product, share one. Source:
arXiv 2209.05433 (Micikevicius and others), the tensorwise recipe of torchao (@vkuzo, @drisspg);
nanochat 2026-02 (@karpathy), whose rule applies here: Linears whose sides are multiples of 16 and
at least 128, including the head.

Sub-toggles: only the head's products (modded-nanogpt 2025-01-13, @YouJiacheng), or only those of
MLPs (PR 306 of 2026-05, @sisovicm; PR 342 of 2026-07, @Mister-dev-oss and others). Scales that need
no previous pass over the tensor, so that the producing kernel can round:

    static     s = bound / M         three fixed numbers, of inputs, weights and gradients
    delayed    s = headroom max_i m_i / M      m_i the largest magnitude in step i of the last n

Gradients are those of a mean over N rows, so their fixed bound is divided by N. Delayed maxima
cover all passes and ranks of a step; the first 16 steps are dynamic, while zero-initialized
projections grow. Values above a bound are clamped; non-finite values remain non-finite. Differences
from the records: those have static scales in the head only, without clamping; delayed scales in the
second product of MLPs only, with 1.12 instead of 1.8 for weights, and gradients of MLPs in bf16;
their first product is dynamic. The fused `loss` supports dynamic scales only; torch computes the
loss for other scales.

Off: products in the compute type. Evaluations never use fp8, so val_bpb is comparable between arms.
Interactions: a scale is computed per pass and rank, so rounding depends on rows per pass and on the
number of ranks. The fused kernels of `qkv` and of the blocks' `products` multiply in bf16, and
torch computes their places. Muon's products do not change. The fused `loss` has separate fp8
products (model/kernels/loss.py).

There are two implementations of the products: `scaled_mm` on the GPU, and `emulated`, which
multiplies the same rounded values in fp32 and runs everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.config import Fp8 as Settings
from model.config.shapes import fits_fp8
from model.distributed.ranks import Ranks

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
# below it a scale's reciprocal is infinite in fp32; it also applies to tensors of zeros
MIN_MAGNITUDE = 1e-30
DYNAMIC_STEPS = 16  # before delayed scales; modded-nanogpt's, of the weights
INPUT, WEIGHT, GRADIENT = range(3)


class Scales(nn.Module):
    """Static or delayed bounds (3) of one product's inputs, weights and gradients.

    Checkpoints contain delayed bounds, because the next step depends on them.
    """

    bounds: Tensor
    seen: Tensor | None
    history: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.fixed = settings.scales == "static"
        fixed = (settings.static_input, settings.static_weight, settings.static_gradient)
        bounds = torch.tensor(fixed) if self.fixed else torch.zeros(3)
        self.register_buffer("bounds", bounds, persistent=not self.fixed)
        self.register_buffer("seen", None if self.fixed else torch.zeros(3))
        if not self.fixed:
            self.register_buffer("history", torch.zeros(settings.history_steps, 3))


class Fp8:
    """Kernel, scales and current state of fp8 products."""

    def __init__(self, settings: Settings, kernel: str) -> None:
        self.settings, self.kernel = settings, kernel
        self.delayed = settings.scales == "delayed"
        self.in_use = False
        self.scales_ready = False  # delayed scales are available
        self.sites: list[Scales] = []

    @contextmanager
    def training(self) -> Iterator[None]:
        """Context of a training forward pass; outside it products do not use fp8."""
        self.in_use = True
        try:
            yield
        finally:
            self.in_use = False

    @property
    def first_steps(self) -> tuple[int, ...]:
        """Steps at which the graph of a pass changes."""
        return (0, DYNAMIC_STEPS) if self.delayed else (0,)

    def begin(self, step: int) -> None:
        """Prepare a step (from 0), before its passes."""
        self.scales_ready = self.delayed and step >= DYNAMIC_STEPS

    @torch.no_grad()
    def update_scales(self, ranks: Ranks) -> None:
        """Set the next delayed bounds from the maxima of a step over all ranks."""
        if not self.delayed:
            return
        seen = self._stacked("seen")  # (sites, 3)
        ranks.all_reduce_maximum(seen).wait()
        history = torch.cat((self._stacked("history")[:, 1:], seen[:, None]), dim=1)
        bounds = self.settings.headroom * history.amax(1).clamp_min(MIN_MAGNITUDE)
        torch._foreach_copy_([site.history for site in self.sites], list(history.unbind()))
        torch._foreach_copy_([site.bounds for site in self.sites], list(bounds.unbind()))
        self.reset_maxima()

    @torch.no_grad()
    def reset_maxima(self) -> None:
        """Reset the maxima of the passes since the last step."""
        if self.delayed:
            torch._foreach_zero_([site.get_buffer("seen") for site in self.sites])

    def scales_of(self, weight: Tensor) -> Scales | None:
        """Scales of the products with a weight (R, C); None with dynamic scales."""
        if self.settings.scales == "dynamic" or not fits_fp8(*weight.shape):
            return None
        self.sites.append(Scales(self.settings))
        return self.sites[-1]

    def is_active_for(self, weight: Tensor) -> bool:
        """Whether products with a weight (R, C) currently use fp8."""
        return self.in_use and fits_fp8(*weight.shape)

    def product(self, x: Tensor, weight: Tensor, scales: Scales | None = None) -> Tensor:
        """x (..., C), weight (R, C) -> (..., R) in the type of x."""
        flat = x.flatten(0, -2)
        bounds, seen, rows = None, None, 1
        if scales is not None:
            seen = scales.seen
            bounds = scales.bounds if scales.fixed or self.scales_ready else None
            rows = flat.size(0) if scales.fixed else 1
        y: Tensor = _Product.apply(flat, weight, self.kernel, bounds, seen, rows)
        return y.view(*x.shape[:-1], weight.size(0))

    def _stacked(self, name: str) -> Tensor:
        return torch.stack([site.get_buffer(name) for site in self.sites])


@dataclass(frozen=True)
class Quantized:
    """A matrix as `values` * `scale`."""

    values: Tensor
    """8 bits, row-major."""
    scale: Tensor
    """fp32, no dimensions."""

    @property
    def transposed(self) -> "Quantized":
        """The transposed matrix, row-major."""
        return Quantized(self.values.t().contiguous(), self.scale)


def quantize(x: Tensor, kind: torch.dtype, bound: Tensor | None = None) -> Quantized:
    """Round x to the fp8 type `kind`, with `bound` as its largest value; larger values are clamped.

    Null: the largest magnitude of x."""
    fp8_max = torch.finfo(kind).max
    largest = max_magnitude(x) if bound is None else bound
    # without clamping, the largest may exceed the maximum by an fp32 rounding error, which the
    # conversion removes
    values = x.float() * (fp8_max / largest)
    if bound is not None:
        values = values.clamp(-fp8_max, fp8_max) + 0 * values  # NaN where x is infinite
    return Quantized(values.to(kind).contiguous(), largest / fp8_max)


def max_magnitude(x: Tensor) -> Tensor:
    """The largest magnitude in fp32."""
    return x.abs().amax().float().clamp_min(MIN_MAGNITUDE)


def product(
    a: Quantized, b: Quantized, out: torch.dtype, kernel: str, *, fast: bool = False
) -> Tensor:
    """a (N, K) times b (R, K) transposed: (N, R) in `out`.

    Both are row-major, as Hopper's tensor cores require. `fast` allows partial sums in fewer bits
    than fp32.
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
    """x w^T and both gradients, of x (N, C) and w (R, C); saves both in fp8 only.

    `bounds` (3) are those of inputs, weights and, times `rows`, gradients; `seen` (3) records their
    maxima.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        kernel: str,
        bounds: Tensor | None,
        seen: Tensor | None,
        rows: int,
    ) -> Tensor:
        if seen is not None:
            _record_maximum(seen, INPUT, x)
            _record_maximum(seen, WEIGHT, weight)
        x8 = quantize(x, E4M3, _bound(bounds, INPUT))
        weight8 = quantize(weight, E4M3, _bound(bounds, WEIGHT))
        ctx.save_for_backward(x8.values, x8.scale, weight8.values, weight8.scale, bounds, seen)
        ctx.kernel, ctx.weight_type, ctx.rows = kernel, weight.dtype, rows
        # fast accumulation forward, exact backward, as in torchao and nanochat
        return product(x8, weight8, x.dtype, kernel, fast=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_values, x_scale, weight_values, weight_scale, bounds, seen = ctx.saved_tensors
        x8, weight8 = Quantized(x_values, x_scale), Quantized(weight_values, weight_scale)
        if seen is not None:
            _record_maximum(seen, GRADIENT, grad)
        bound = _bound(bounds, GRADIENT)
        grad8 = quantize(grad, E5M2, None if bound is None else bound / ctx.rows)
        grad_x = product(grad8, weight8.transposed, grad.dtype, ctx.kernel)
        grad_weight = product(grad8.transposed, x8.transposed, ctx.weight_type, ctx.kernel)
        return grad_x, grad_weight, None, None, None, None


def _bound(bounds: Tensor | None, kind: int) -> Tensor | None:
    return None if bounds is None else bounds[kind]


def _record_maximum(seen: Tensor, kind: int, x: Tensor) -> None:
    seen[kind].copy_(torch.maximum(seen[kind], max_magnitude(x.detach())))
