"""Trick `swiglu`: a gated MLP instead of one activation.

    down(silu(gate x) * (up x))          x (..., D), gate and up (F, D), down (D, F)

F is 8 D / 3 to the nearest multiple of 16, so that three matrices have as many parameters as the
two of width 4 D (to 1 % from D = 256 on, exactly at 768 and 1536). Why it should help: a product of
two projections is more expressive than one activation. Source: arXiv 2002.05202 (Shazeer). A
negative control: nanochat found it worse than squared ReLU at depth 12 and 24 (log of 2026-02-05).
Off: one projection and its activation, 4 D wide. The gate is initialized as `up` is. Interactions:
it replaces `relu_squared`; the fused products of a block cannot compute it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.linear import Linear, joint_linear
from model.arch.parameter import Parameters
from model.kernels.fp8 import Fp8


class SwiGLU(nn.Module):
    """The gate: a Linear (F, D), label `matrices`."""

    def __init__(self, params: Parameters, fp8: Fp8 | None = None) -> None:
        super().__init__()
        self.gate = Linear(params.under("gate"), fp8)

    def forward(self, x: Tensor, up: Linear) -> Tensor:
        """x (..., D) -> the hidden layer (..., F), gated."""
        gate, hidden = joint_linear(x, self.gate, up).chunk(2, dim=-1)
        return F.silu(gate) * hidden
