"""Trick `rotary`: positions as rotations of queries and keys.

Channel pair p of a head (channels p and p + K/2) at position t rotates by the angle t base^(-2p/K):

    (a, b) -> (a cos + b sin, b cos - a sin)          q, k (B, T, H, K), before QK norm

Why it should help: the score of a query and a key depends on their distance, and no position table
has to be learned. Source: RoFormer, arXiv 2104.09864 (Su and others); in the speedruns since
2024-06 (@kellerjordan0). Off: learned positions (T, D) are added to the embedding. Interactions: QK
norm preserves rotations.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from model.arch.position_ids import PositionIds
from model.config import Rotary as Settings
from model.tricks.half_rotary import half_frequencies
from model.tricks.yarn import WindowChange, scale_frequencies

CosSin = tuple[Tensor, Tensor]
"""Cosine and sine (T, K/2) of every position and channel pair; (T, H, K/2) if heads differ,
(B, T, 1 or H, K/2) if rows differ."""


class Rotary(nn.Module):
    """Cosines and sines of a row; no parameters."""

    def __init__(self, settings: Settings, head_width: int) -> None:
        super().__init__()
        self.settings, self.head_width = settings, head_width
        self.window_changes: tuple[WindowChange, ...] = ()  # set by window_warmup_yarn

    def forward(self, tokens: int, device: torch.device, dtype: torch.dtype) -> CosSin:
        # read from memory: computing sines and cosines inside the kernels of the blocks took
        # 16 % of a step (LOG.md)
        half = self.settings.half
        base = self.settings.base if half is None else half.base
        return cos_sin_table(
            *(tokens, self.head_width, base, device, dtype, self.window_changes),
            half=half is not None,
        )


def apply_rotary(x: Tensor, cos_sin: CosSin) -> Tensor:
    """Rotate queries or keys x (B, T, H, K)."""
    cos, sin = (part[:, None] if part.ndim == 2 else part for part in cos_sin)  # (.., 1 or H, K/2)
    first, second = x.chunk(2, dim=-1)  # (B, T, H, K/2) each
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def select_positions(cos_sin: CosSin, position_ids: PositionIds | None) -> CosSin:
    """Rows of the tables at `position_ids`; null keeps positions 0 to T - 1."""
    if position_ids is None:
        return cos_sin
    cos, sin = (part[:, None] if part.ndim == 2 else part for part in cos_sin)
    return cos[position_ids.index], sin[position_ids.index]


@lru_cache(maxsize=16)
def cos_sin_table(
    tokens: int,
    width: int,
    base: float,
    device: torch.device,
    dtype: torch.dtype,
    window_changes: tuple[WindowChange, ...] = (),
    *,
    half: bool = False,
) -> CosSin:
    """Tables of `tokens` positions, cached per process."""
    position = torch.arange(tokens, dtype=torch.float32, device=device)
    if half:
        frequency = half_frequencies(width, base, device)
    else:
        exponent = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        frequency = base**-exponent
    angle = torch.outer(position, scale_frequencies(frequency, window_changes))
    return angle.cos().to(dtype), angle.sin().to(dtype)
