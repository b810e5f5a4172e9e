"""Trick `sparse_attention_gate`: each head can be silent.

    y_h = sigmoid(W_h . x[..., :C]) y_h          y (B, T, H, K), W (H, C), C leading channels (12)

on attention's output before its projection; x is the block's normed attention input. Why it should
help: a softmax has to attend to something; the gate lets a head say nothing without an attention
sink, wherever the row began. @classiclarryd found 12 channels better than 96 or all (modded-nanogpt
PR 117). W starts at 0, so every head at half its output. Off: heads speak always. Interactions:
`xsa` also frees attention from the token itself; modded-nanogpt has both, this gate in two of its
eleven layers (2026-08), where the network that mixes its layers computes it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters


class SparseAttentionGate(nn.Module):
    """Gate (H, C), label `attention_gates`."""

    def __init__(self, own: Parameters) -> None:
        super().__init__()
        self.gate = own["gate"]

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        gate = F.linear(x[..., : self.gate.size(1)], self.gate.to(x.dtype))  # (B, T, H)
        return torch.sigmoid(gate)[..., None] * y
