"""Trick `learnable_xsa`: each head learns how much of its token's own value it leaves out.

    y = y - tanh(s) (y . u) u,  u = v / |v|       y, v (B, T, H, K): attention's output, own values

s (H) is a strength for each head of each chosen layer, and starts at 0: the first loss is that of
the model without it, and a head may also learn to say more of its own value (s below 0). v is as
attention read it. Why it should help: as in `xsa`, a head need not repeat what the residual stream
carries anyway, but one that has use for its token's value keeps it. Source: modded-nanogpt PR 264
(2026-04-29, @djdumpling) after Zhai, arXiv 2603.09078.

By default all layers have it whose heads are not paired, as in that record: 1, 3, 4, 7, 8 and 10 of
its 11. Label `xsa_strengths`: the record's Adam rate of 0.008, betas 0.9 and 0.95, no decay. A
variant of the newest records in this: PR 315 (2026-05-27, @Lisennlp) keeps layers 1, 3, 4 and 7 of
11 and computes s of every token from the stream, by the gates of its MUDD connections. The values'
norm is bounded below as in `xsa`.

Off: outputs as they are. Interactions: it takes the place of `xsa`; layers named in `layers` may
have paired heads, whose outputs are separated before; `sparse_attention_gate` scales what is left.
"""

import torch
from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.tricks.xsa import directions


class LearnableXSA(nn.Module):
    """Strengths (H) of one layer, label `xsa_strengths`."""

    def __init__(self, own: Parameters) -> None:
        super().__init__()
        self.strengths = own["strengths"]

    def forward(self, y: Tensor, v: Tensor) -> Tensor:
        """Attention's output y (B, T, H, K) without a share of what lies along the values v."""
        u = directions(v)
        share = torch.tanh(self.strengths).to(y.dtype)[:, None]  # (H, 1)
        return y - share * (y * u).sum(-1, keepdim=True) * u
