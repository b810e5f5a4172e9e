"""The two norms: LayerNorm as in GPT-2, and RMSNorm without parameters (trick `rmsnorm`)."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Constant, parameter

LAYERNORM_EPS = 1e-5  # GPT-2's


class LayerNorm(nn.Module):
    """Mean 0 and variance 1 over D, then weight and bias. x (..., D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = parameter(width, label="norms", init=Constant(1.0))
        self.bias = parameter(width, label="norms", init=Constant(0.0))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias, LAYERNORM_EPS)


class RMSNorm(nn.Module):
    """Root mean square 1 over D; no parameters. x (..., D)."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x)


def rms_norm(x: Tensor) -> Tensor:
    """x / rms(x) over the last dimension, eps the type's own."""
    return F.rms_norm(x, (x.size(-1),))


def norm_of(kind: str, width: int) -> nn.Module:
    """A new norm of the configured kind."""
    return LayerNorm(width) if kind == "layernorm" else RMSNorm()
