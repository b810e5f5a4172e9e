"""Trick `smear`: each embedding adds a gated share of the previous token.

    x_t + factor sigmoid(gate . x_t[:C]) x_{t-1}      x (B, T, D), C leading channels (24)

on the normed embedding, before the first block. Why it should help: many heads of early layers only
look one token back; this provides the bigram for one multiplication. Due to @classiclarryd
(modded-nanogpt 2025-09). Off: the embedding is unchanged. The factor starts at 0, so the initial
loss is that of the model without it. Interactions: x0 of the residual scalars is taken after smear.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters


class Smear(nn.Module):
    """Gate (1, C) and factor (1), label `smear`."""

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.factor, self.gate = params["factor"], params["gate"]

    def forward(self, x: Tensor) -> Tensor:
        current, previous = x[:, 1:], x[:, :-1]
        gate = F.linear(current[..., : self.gate.size(1)], self.gate.to(x.dtype))  # (B, T-1, 1)
        share = self.factor.to(x.dtype) * torch.sigmoid(gate)
        return torch.cat((x[:, :1], current + share * previous), dim=1)
