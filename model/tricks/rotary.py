"""Trick `rotary`: positions as rotations of queries and keys.

Channel pair p of a head (channels p and p + K/2) at position t turns by the angle t base^(-2p/K):

    (a, b) -> (a cos + b sin, b cos - a sin)          q, k (B, T, H, K), before QK norm

Why it should help: the score of a query and a key then depends on their distance, and no table
has to be learned. Source: RoFormer, arXiv 2104.09864 (Su and others); in the speedruns since
2024-06 (@kellerjordan0). Off: learned positions (T, D) are added to the embedding. Interactions:
QK norm keeps rotations intact.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from model.config import Rotary as Settings
from model.places import Places
from model.tricks.half_rotary import half_frequencies
from model.tricks.yarn import Stretch, stretched

Turns = tuple[Tensor, Tensor]
"""Cosine and sine (T, K/2) of every position and channel pair; (T, H, K/2) where heads differ, and
(B, T, 1 or H, K/2) where rows do."""


class Rotary(nn.Module):
    """The angles of a row, worked out once; holds no state."""

    def __init__(self, settings: Settings, head_width: int) -> None:
        super().__init__()
        self.settings, self.head_width = settings, head_width
        self.stretches: tuple[Stretch, ...] = ()  # of window_warmup_yarn

    def forward(self, tokens: int, device: torch.device, dtype: torch.dtype) -> Turns:
        # blocks read them from memory: worked out inside their kernels, sines and cosines took
        # 16 % of a step (LOG.md)
        half = self.settings.half
        base = self.settings.base if half is None else half.base
        return angles(
            *(tokens, self.head_width, base, device, dtype, self.stretches), half=half is not None
        )


def turned(x: Tensor, turns: Turns) -> Tensor:
    """Queries or keys x (B, T, H, K), rotated."""
    cos, sin = (turn[:, None] if turn.ndim == 2 else turn for turn in turns)  # (.., 1 or H, K/2)
    first, second = x.chunk(2, dim=-1)  # (B, T, H, K/2) each
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def at_places(turns: Turns, places: Places | None) -> Turns:
    """Turns of positions 0, 1, ... as those of tokens that stand elsewhere."""
    if places is None:
        return turns
    cos, sin = (turn[:, None] if turn.ndim == 2 else turn for turn in turns)
    return cos[places.index], sin[places.index]


@lru_cache(maxsize=16)
def angles(
    tokens: int,
    width: int,
    base: float,
    device: torch.device,
    dtype: torch.dtype,
    stretches: tuple[Stretch, ...] = (),
    *,
    half: bool = False,
) -> Turns:
    """Turns of `tokens` positions; kept, so that they are worked out once in a process."""
    position = torch.arange(tokens, dtype=torch.float32, device=device)
    if half:
        frequency = half_frequencies(width, base, device)
    else:
        exponent = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        frequency = base**-exponent
    angle = torch.outer(position, stretched(frequency, stretches))
    return angle.cos().to(dtype), angle.sin().to(dtype)
