"""Trick `sparse_attention_gate`: a gate can switch off each head.

    y_h = sigmoid(W_h . x[..., :C]) y_h          y (B, T, H, K), W (H, C), C leading channels (12)

on attention's output before its projection; x is the block's normed attention input. Why it should
help: a softmax must attend to something; with the gate a head can output nothing without an
attention sink, wherever the row starts. @classiclarryd found 12 channels better than 96 or all
(modded-nanogpt PR 117). W starts at 0, so every head starts at half its output. Off: outputs are
not gated. Interactions: `xsa` also frees attention from the token itself; modded-nanogpt has both,
with this gate in two of its eleven layers (2026-08), computed by the network that mixes its layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters


class SparseAttentionGate(nn.Module):
    """Gate (H, C), label `attention_gates`."""

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.gate = params["gate"]

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        gate = F.linear(x[..., : self.gate.size(1)], self.gate.to(x.dtype))  # (B, T, H)
        return torch.sigmoid(gate)[..., None] * y
