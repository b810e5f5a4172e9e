"""Trick `paired_heads`: two heads share one softmax over the keys of both.

    q, k, v (B, T, H, K) -> (B, 2 T, H/2, K): position 2 t + s holds token t of head h + s H/2

and back behind attention; s is 0 or 1. Head h is paired with h + H/2, which makes both directions a
change of view. Position 2 t + s is also what rotary positions count, so the two heads of a token
turn by different angles, and the window counts such positions: it reaches half as many tokens.
Causality makes the second head of a token see the first head's key of it, not the other way round.
Why it should help: a query chooses among two keys a token, and the two compete in one softmax. Due
to @classiclarryd (modded-nanogpt 2026-01-07). This is a variant: modded-nanogpt has it in four
chosen ones of its eight layers with a short window, here it is in every other one (`every`); and
there the angle of 2 t + 1 belongs to heads of odd number, here to the later half of the heads, as
the position in the softmax does. Off: each head attends to its own keys. FLOPs are equal: twice
the queries, half the heads, the same window. Interactions: needs `windows`; the fused kernel of
queries and keys rotates all heads alike, so it cannot be used.
"""

from torch import Tensor

from model.tricks.rotary import CosSin


def interleaved(x: Tensor) -> Tensor:
    """(B, T, H, K) -> (B, 2 T, H/2, K)."""
    return x.unflatten(2, (2, -1)).flatten(1, 2)


def separated(x: Tensor) -> Tensor:
    """(B, 2 T, H/2, K) -> (B, T, H, K)."""
    return x.unflatten(1, (-1, 2)).flatten(2, 3)


def of_pairs(cos_sin: CosSin, heads: int) -> CosSin:
    """Of 2 T positions (2 T, K/2), those of T tokens and H heads (T, H, K/2)."""
    cos, sin = (part.unflatten(0, (-1, 2)).repeat_interleave(heads // 2, dim=1) for part in cos_sin)
    return cos, sin
