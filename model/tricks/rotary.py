"""Trick `rotary`: positions as rotations of queries and keys.

Channel pair p of a head (channels p and p + K/2) at position t cos_sin by the angle t base^(-2p/K):

    (a, b) -> (a cos + b sin, b cos - a sin)          q, k (B, T, H, K), before QK norm

Why it should help: the score of a query and a key then depends on their distance, and no table
has to be learned. Source: RoFormer, arXiv 2104.09864 (Su and others); in the speedruns since
2024-06 (@kellerjordan0). Off: learned positions (T, D) are added to the embedding. Interactions:
QK norm keeps rotations intact.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from model.arch.position_ids import PositionIds
from model.config import Rotary as Settings
from model.tricks.half_rotary import half_frequencies
from model.tricks.yarn import Stretch, stretched

CosSin = tuple[Tensor, Tensor]
"""Cosine and sine (T, K/2) of every position and channel pair; (T, H, K/2) where heads differ, and
(B, T, 1 or H, K/2) where rows do."""


class Rotary(nn.Module):
    """The angles of a row, computed once; holds no state."""

    def __init__(self, settings: Settings, head_width: int) -> None:
        super().__init__()
        self.settings, self.head_width = settings, head_width
        self.stretches: tuple[Stretch, ...] = ()  # of window_warmup_yarn

    def forward(self, tokens: int, device: torch.device, dtype: torch.dtype) -> CosSin:
        # blocks read them from memory: computed inside their kernels, sines and cosines took
        # 16 % of a step (LOG.md)
        half = self.settings.half
        base = self.settings.base if half is None else half.base
        return angles(
            *(tokens, self.head_width, base, device, dtype, self.stretches), half=half is not None
        )


def rotated(x: Tensor, cos_sin: CosSin) -> Tensor:
    """Queries or keys x (B, T, H, K), rotated."""
    cos, sin = (part[:, None] if part.ndim == 2 else part for part in cos_sin)  # (.., 1 or H, K/2)
    first, second = x.chunk(2, dim=-1)  # (B, T, H, K/2) each
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def select_positions(cos_sin: CosSin, position_ids: PositionIds | None) -> CosSin:
    """Of positions 0, 1, ..., those of the tokens' own positions."""
    if position_ids is None:
        return cos_sin
    cos, sin = (part[:, None] if part.ndim == 2 else part for part in cos_sin)
    return cos[position_ids.index], sin[position_ids.index]


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
) -> CosSin:
    """Of `tokens` positions; cached, so that they are computed once in a process."""
    position = torch.arange(tokens, dtype=torch.float32, device=device)
    if half:
        frequency = half_frequencies(width, base, device)
    else:
        exponent = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        frequency = base**-exponent
    angle = torch.outer(position, stretched(frequency, stretches))
    return angle.cos().to(dtype), angle.sin().to(dtype)
