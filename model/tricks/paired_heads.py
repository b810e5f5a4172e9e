"""Trick `paired_heads`: two heads share one softmax over the keys of both.

    q, k, v (B, T, H, K) -> (B, 2 T, H/2, K): position 2 t + s holds token t of head h + s H/2

and back after attention; s is 0 or 1. Head h is paired with h + H/2, so both conversions are views.
Rotary positions also use 2 t + s, so the two heads of a token rotate by different angles. The
window counts these positions and covers half as many tokens. With causal masking, the second head
of a token sees the first head's key of that token, and not vice versa. Why it should help: a query
chooses between two keys per token, and the two compete in one softmax. Due to @classiclarryd
(modded-nanogpt 2026-01-07). Differences from modded-nanogpt: there four of the eight layers with a
short window have it, here every other one (`every`); there odd-numbered heads use the angle of 2 t
+ 1, here the second half of the heads does, matching the position in the softmax. Off: each head
attends to its own keys. FLOPs are equal: twice the queries, half the heads, the same window.
Interactions: needs `windows`; the fused QKV kernel rotates all heads by the same angles, so it is
not used.
"""

from torch import Tensor

from model.tricks.rotary import CosSin


def interleave_heads(x: Tensor) -> Tensor:
    """(B, T, H, K) -> (B, 2 T, H/2, K)."""
    return x.unflatten(2, (2, -1)).flatten(1, 2)


def separate_heads(x: Tensor) -> Tensor:
    """(B, 2 T, H/2, K) -> (B, T, H, K)."""
    return x.unflatten(1, (-1, 2)).flatten(2, 3)


def pair_cos_sin(cos_sin: CosSin, heads: int) -> CosSin:
    """Tables of 2 T positions (2 T, K/2) -> tables by token and head (T, H, K/2)."""
    cos, sin = (part.unflatten(0, (-1, 2)).repeat_interleave(heads // 2, dim=1) for part in cos_sin)
    return cos, sin
