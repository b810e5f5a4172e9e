"""A Linear with fp32 master weight; computes in the type of its input or in fp8 (trick `fp8`)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.kernels.fp8 import Fp8, Scales


class Linear(nn.Module):
    """x (..., columns) -> (..., rows); weight (rows, columns), label `matrices`; bias optional."""

    def __init__(self, params: Parameters, fp8: Fp8 | None = None) -> None:
        super().__init__()
        self.weight = params["weight"]
        self.bias = params.get("bias")
        self.fp8 = fp8
        self.scales = None if fp8 is None else fp8.scales_of(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.fp8, self.scales)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fp8: Fp8 | None,
    scales: Scales | None = None,
) -> Tensor:
    """x weight^T + bias in the type of x: x (..., C), weight (R, C) and bias (R) in fp32."""
    bias = None if bias is None else bias.to(x.dtype)
    if fp8 is None or not fp8.is_active_for(weight):
        return F.linear(x, weight.to(x.dtype), bias)
    y = fp8.product(x, weight, scales)
    return y if bias is None else y + bias


def joint_linear(x: Tensor, *linears: Linear) -> Tensor:
    """Concatenated outputs of several Linears on the same x, by one product."""
    weights: list[Tensor] = [each.weight for each in linears]
    biases: list[Tensor] = [each.bias for each in linears if each.bias is not None]
    bias = torch.cat(biases) if biases else None
    return linear(x, torch.cat(weights), bias, linears[0].fp8, linears[0].scales)
