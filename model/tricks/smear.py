"""Trick `smear`: each embedding takes a gated share of the token before.

    x_t + factor sigmoid(gate . x_t[:C]) x_{t-1}      x (B, T, D), C leading channels (24)

on the normed embedding, before the first block. Why it should help: many heads of early layers
only look one token back; this gives them the bigram for the price of one multiplication. Due to
@classiclarryd (modded-nanogpt 2025-09). Off: the embedding goes on unchanged. At initialisation
the factor is 0, so the first loss is that of the model without it. Interactions: x0 of the
residual scalars is taken after it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters


class Smear(nn.Module):
    """Gate (1, C) and factor (1), label `smear`."""

    def __init__(self, own: Parameters) -> None:
        super().__init__()
        self.factor, self.gate = own["factor"], own["gate"]

    def forward(self, x: Tensor) -> Tensor:
        current, before = x[:, 1:], x[:, :-1]
        gate = F.linear(current[..., : self.gate.size(1)], self.gate.to(x.dtype))  # (B, T-1, 1)
        share = self.factor.to(x.dtype) * torch.sigmoid(gate)
        return torch.cat((x[:, :1], current + share * before), dim=1)
