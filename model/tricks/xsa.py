"""Trick `xsa` (exclusive self attention): remove from a head's output its token's own value.

    y = y - (y . u) u,  u = v / |v|          y, v (B, T, H, K): attention's output, own values

in every layer and head; v is the value that attention read (with its value embedding). Why it
should help: the residual stream already carries the token itself, so attention need not repeat it;
a head that attends to its own position then outputs nothing. Zhai, arXiv 2603.09078. modded-nanogpt
learns the share that each head removes (trick `learnable_xsa`); nanochat found the plain form, in
three layers, better per step but not in time (log of 2026-03-24). Off: the output is unchanged. The
first token of a row sees only itself, so its output is 0. Interactions: `sparse_attention_gate` can
also switch off a head.
"""

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-4  # smallest norm of a value; modded-nanogpt's


def remove_value_component(y: Tensor, v: Tensor) -> Tensor:
    """Attention's output y (B, T, H, K) minus its component along its token's value v."""
    u = unit_values(v)
    return y - (y * u).sum(-1, keepdim=True) * u


def unit_values(v: Tensor) -> Tensor:
    """Values (B, T, H, K) normalized to length 1."""
    return F.normalize(v, dim=-1, eps=EPS)
