"""The two norms: LayerNorm as in GPT-2, and RMSNorm without parameters (trick `rmsnorm`)."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters

LAYERNORM_EPS = 1e-5  # GPT-2's


class LayerNorm(nn.Module):
    """Mean 0 and variance 1 over D, then weight and bias. x (..., D)."""

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.weight, self.bias = params["weight"], params["bias"]

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias, LAYERNORM_EPS)


class RMSNorm(nn.Module):
    """Root mean square 1 over D; no parameters. x (..., D)."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x)


def rms_norm(x: Tensor) -> Tensor:
    """x / rms(x) over the last dimension; eps is that of the type."""
    return F.rms_norm(x, (x.size(-1),))


def norm_of(params: Parameters) -> nn.Module:
    """LayerNorm if its parameters are declared, otherwise RMSNorm."""
    return LayerNorm(params) if "weight" in params else RMSNorm()
