"""A Linear with fp32 master weight that computes in the type of its input."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.parameter import Constant, Init, parameter


class Linear(nn.Module):
    """x (..., columns) -> (..., rows); weight (rows, columns), label `matrices`; bias optional."""

    def __init__(self, columns: int, rows: int, *, bias: bool, init: Init) -> None:
        super().__init__()
        self.weight = parameter(rows, columns, label="matrices", init=init)
        self.bias = parameter(rows, label="biases", init=Constant(0.0)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def joint(x: Tensor, *linears: Linear) -> Tensor:
    """The outputs of several Linears on the same x, side by side, by one product."""
    weights: list[Tensor] = [linear.weight for linear in linears]
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    weight = torch.cat(weights).to(x.dtype)
    return F.linear(x, weight, torch.cat(biases).to(x.dtype) if biases else None)
