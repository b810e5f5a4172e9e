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

Sub-toggles: only the head's products (modded-nanogpt 2025-01-13, @YouJiacheng), or only those of
MLPs (PR 306 of 2026-05, @sisovicm; PR 342 of 2026-07, @Mister-dev-oss and others). Scales that no
pass over the tensor has to find first, so that rounding can be part of the kernel that makes it:

    static     s = bound / M         three fixed numbers, of inputs, weights and gradients
    delayed    s = headroom max_i m_i / M      m_i the largest magnitude in step i of the last n

Gradients are those of a mean over N rows, so their fixed bound is divided by N. Delayed maxima are
those of all passes and all ranks of a step, and the first 16 steps are dynamic, while projections
that started at 0 grow. What exceeds a bound is cut to it; what is not finite stays so. Variants of
the records': those have static scales in the head alone, whose values are not cut; delayed ones in
the second product of MLPs alone, with 1.12 in place of 1.8 for weights, and gradients of MLPs in
bf16; their first product is dynamic. The fused `loss` has dynamic scales, so others leave it to
torch.

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
from torch import Tensor, nn

from model.config import Fp8 as Settings
from model.config.shapes import fits_fp8
from model.distributed.ranks import Ranks

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
# below it a scale's reciprocal would be infinite in fp32; a tensor of zeros comes here too
LEAST_MAGNITUDE = 1e-30
DYNAMIC_STEPS = 16  # before delayed scales; modded-nanogpt's, of the weights
INPUT, WEIGHT, GRADIENT = range(3)


class Scales(nn.Module):
    """The bounds (3) of one product's inputs, weights and gradients, where those are not dynamic.

    Delayed ones go into checkpoints: the next step depends on them.
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
    """Which products run in 8 bits, by which kernel and scales, and whether they do so now."""

    def __init__(self, settings: Settings, kernel: str) -> None:
        self.settings, self.kernel = settings, kernel
        self.delayed = settings.scales == "delayed"
        self.in_use = False
        self.settled = False  # delayed scales are known
        self.sites: list[Scales] = []

    @contextmanager
    def training(self) -> Iterator[None]:
        """Everything inside is a forward pass of training; elsewhere products are not in 8 bits."""
        self.in_use = True
        try:
            yield
        finally:
            self.in_use = False

    @property
    def first_steps(self) -> tuple[int, ...]:
        """The steps from which on passes have another graph."""
        return (0, DYNAMIC_STEPS) if self.delayed else (0,)

    def begin(self, step: int) -> None:
        """Before the passes of a step, counted from 0."""
        self.settled = self.delayed and step >= DYNAMIC_STEPS

    @torch.no_grad()
    def advance(self, ranks: Ranks) -> None:
        """After a step: its maxima over all ranks set the next bounds, where scales are delayed."""
        if not self.delayed:
            return
        seen = self._stacked("seen")  # (sites, 3)
        ranks.all_reduce_maximum(seen).wait()
        history = torch.cat((self._stacked("history")[:, 1:], seen[:, None]), dim=1)
        bounds = self.settings.headroom * history.amax(1).clamp_min(LEAST_MAGNITUDE)
        torch._foreach_copy_([site.history for site in self.sites], list(history.unbind()))
        torch._foreach_copy_([site.bounds for site in self.sites], list(bounds.unbind()))
        self.forget()

    @torch.no_grad()
    def forget(self) -> None:
        """The maxima of the passes since the last step."""
        if self.delayed:
            torch._foreach_zero_([site.get_buffer("seen") for site in self.sites])

    def scales_of(self, weight: Tensor) -> Scales | None:
        """For the products with a weight (R, C); null where each tensor sets its own."""
        if self.settings.scales == "dynamic" or not fits_fp8(*weight.shape):
            return None
        self.sites.append(Scales(self.settings))
        return self.sites[-1]

    def takes(self, weight: Tensor) -> bool:
        """Whether products with a weight (R, C) now run in 8 bits."""
        return self.in_use and fits_fp8(*weight.shape)

    def product(self, x: Tensor, weight: Tensor, scales: Scales | None = None) -> Tensor:
        """x (..., C), weight (R, C) -> (..., R) in the type of x."""
        flat = x.flatten(0, -2)
        bounds, seen, rows = None, None, 1
        if scales is not None:
            seen = scales.seen
            bounds = scales.bounds if scales.fixed or self.settled else None
            rows = flat.size(0) if scales.fixed else 1
        y: Tensor = _Product.apply(flat, weight, self.kernel, bounds, seen, rows)
        return y.view(*x.shape[:-1], weight.size(0))

    def _stacked(self, name: str) -> Tensor:
        return torch.stack([site.get_buffer(name) for site in self.sites])


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


def quantised(x: Tensor, kind: torch.dtype, bound: Tensor | None = None) -> Quantised:
    """x rounded to `kind`, so that `bound` becomes the largest of the kind; null: the largest
    magnitude of x. What is larger is cut."""
    most = torch.finfo(kind).max
    largest = largest_of(x) if bound is None else bound
    # where nothing is cut the largest may exceed `most` by a rounding of fp32, which the next
    # rounding takes away
    values = x.float() * (most / largest)
    if bound is not None:
        values = values.clamp(-most, most) + 0 * values  # not a number where it is infinite
    return Quantised(values.to(kind).contiguous(), largest / most)


def largest_of(x: Tensor) -> Tensor:
    """The largest magnitude in fp32."""
    return x.abs().amax().float().clamp_min(LEAST_MAGNITUDE)


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
    """x w^T and both gradients, of x (N, C) and w (R, C); keeps both in 8 bits alone.

    `bounds` (3) are those of inputs, weights and, times `rows`, gradients; `seen` (3) takes their
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
            _note(seen, INPUT, x)
            _note(seen, WEIGHT, weight)
        x8 = quantised(x, E4M3, _bound(bounds, INPUT))
        weight8 = quantised(weight, E4M3, _bound(bounds, WEIGHT))
        ctx.save_for_backward(x8.values, x8.scale, weight8.values, weight8.scale, bounds, seen)
        ctx.kernel, ctx.weight_type, ctx.rows = kernel, weight.dtype, rows
        # fast sums forward and exact ones backward, as torchao and nanochat have them
        return product(x8, weight8, x.dtype, kernel, fast=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_values, x_scale, weight_values, weight_scale, bounds, seen = ctx.saved_tensors
        x8, weight8 = Quantised(x_values, x_scale), Quantised(weight_values, weight_scale)
        if seen is not None:
            _note(seen, GRADIENT, grad)
        bound = _bound(bounds, GRADIENT)
        grad8 = quantised(grad, E5M2, None if bound is None else bound / ctx.rows)
        grad_x = product(grad8, weight8.transposed, grad.dtype, ctx.kernel)
        grad_weight = product(grad8.transposed, x8.transposed, ctx.weight_type, ctx.kernel)
        return grad_x, grad_weight, None, None, None, None


def _bound(bounds: Tensor | None, of: int) -> Tensor | None:
    return None if bounds is None else bounds[of]


def _note(seen: Tensor, of: int, x: Tensor) -> None:
    seen[of].copy_(torch.maximum(seen[of], largest_of(x.detach())))
