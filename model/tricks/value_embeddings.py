"""Trick `value_embeddings`: separate token tables for the values of every other layer.

    v = v + gate table[token],  gate = 3 sigmoid(W x[..., :C])        v (B, T, H, K), gate (B, T, H)

x is the block's normed attention input, C its leading channels (12), one gate per head. It applies
to layers L-1, L-3, ... Why it should help: the parameters cost a lookup and no matmul, and values
identify their token. ResFormer, arXiv 2410.17897 (Zhou and others); @KoszarskyB, @Grad62304977
(modded-nanogpt 2024-12), gates of nanochat. Off: values come from the stream alone. Interactions:
residual scalars also reintroduce the token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.config import ValueEmbeddings as Settings
from model.config.shapes import Sizes


class ValueEmbedding(nn.Module):
    """Table (V, H K), label `value_tables`, and gate (H, C), label `matrices`."""

    def __init__(
        self,
        params: Parameters,
        settings: Settings,
        sizes: Sizes,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = sizes.heads, sizes.head_width
        self.gate_scale = settings.gate_scale
        self.table, self.gate = params["table"], params["gate"]

    def forward(self, v: Tensor, x: Tensor, tokens: Tensor) -> Tensor:
        gate = F.linear(x[..., : self.gate.size(1)], self.gate.to(x.dtype))  # (B, T, H)
        embedded = F.embedding(tokens, self.table).to(v.dtype)
        embedded = embedded.unflatten(-1, (self.heads, self.head_width))  # (B, T, H, K)
        return v + self.gate_scale * torch.sigmoid(gate)[..., None] * embedded
