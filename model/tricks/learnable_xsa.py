"""Trick `learnable_xsa`: each head learns how much of its token's own value to remove.

    y = y - tanh(s) (y . u) u,  u = v / |v|       y, v (B, T, H, K): attention's output, own values

s (H) is the strength of each head of each chosen layer and starts at 0: the initial loss is that of
the model without it. A head may also amplify its own value (s below 0). v is the value that
attention read. Why it should help: as in `xsa`, a head need not repeat what the residual stream
already carries, but a head that benefits from its token's value can keep it. Source: modded-nanogpt
PR 264 (2026-04-29, @djdumpling) after Zhai, arXiv 2603.09078.

By default it applies to all layers without paired heads, as in that record: 1, 3, 4, 7, 8 and 10 of
its 11. Label `xsa_strengths`: the record's Adam rate of 0.008, betas 0.9 and 0.95, no decay. The
newest records differ: PR 315 (2026-05-27, @Lisennlp) keeps layers 1, 3, 4 and 7 of 11 and computes
s per token from the stream, with the gates of its MUDD connections. The values' norm is bounded
below as in `xsa`.

Off: outputs are unchanged. Interactions: it replaces `xsa`; layers named in `layers` may have
paired heads, whose outputs are separated first; `sparse_attention_gate` scales the result.
"""

import torch
from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.tricks.xsa import unit_values


class LearnableXSA(nn.Module):
    """Strengths (H) of one layer, label `xsa_strengths`."""

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.strengths = params["strengths"]

    def forward(self, y: Tensor, v: Tensor) -> Tensor:
        """Attention's output y (B, T, H, K) minus a share of its component along the values v."""
        u = unit_values(v)
        fraction = torch.tanh(self.strengths).to(y.dtype)[:, None]  # (H, 1)
        return y - fraction * (y * u).sum(-1, keepdim=True) * u
