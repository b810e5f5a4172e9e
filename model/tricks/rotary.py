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


class Rotary(nn.Module):
    """Turns queries or keys; holds no state, the angles are cached by size and device."""

    def __init__(self, base: float) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        # a compiled graph makes the angles itself; a cache inside it would only be looked through
        angles_of = angles if torch.compiler.is_compiling() else _kept_angles
        cos, sin = angles_of(x.size(1), x.size(3), self.base, x.device, x.dtype)
        first, second = x.chunk(2, dim=-1)  # (B, T, H, K/2) each
        return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def angles(
    tokens: int, width: int, base: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, 1, K/2) of every position and pair."""
    exponent = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    position = torch.arange(tokens, dtype=torch.float32, device=device)
    angle = torch.outer(position, base**-exponent)[:, None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)


_kept_angles = lru_cache(maxsize=8)(angles)
