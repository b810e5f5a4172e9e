"""Trick `xsa` (exclusive self attention): a head says nothing that its token's own value says.

    y = y - (y . u) u,  u = v / |v|          y, v (B, T, H, K): attention's output, own values

in every layer and head, v as attention read it (with its value embedding). Why it should help: the
residual stream carries the token itself, so what attention spends on it is lost; and a head that
attends to its own position is as good as silent. Zhai, arXiv 2603.09078. modded-nanogpt learns what
share each head takes out (trick `learnable_xsa`); nanochat found the plain form, in three layers,
better per step and not in time (log of 2026-03-24). Off: the output as it is. The first token of a
row sees only itself, so its output is 0. Interactions: `sparse_attention_gate` frees a head too.
"""

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-4  # smallest norm of a value; modded-nanogpt's


def exclusive(y: Tensor, v: Tensor) -> Tensor:
    """Attention's output y (B, T, H, K) without its part along the values v of the same tokens."""
    u = directions(v)
    return y - (y * u).sum(-1, keepdim=True) * u


def directions(v: Tensor) -> Tensor:
    """Values (B, T, H, K) at length 1."""
    return F.normalize(v, dim=-1, eps=EPS)
