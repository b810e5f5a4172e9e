"""Trick `half_rotary`: rotate half of the channels with position; leave the other half unrotated.

    pair p of a head rotates by t base^(-p / (K/4 - 1)) for p < K/4, and not at all from K/4 on

Channels p and p + K/2 form a pair, so K/4 .. K/2 and 3K/4 .. K are unrotated: there a query matches
a key by content, at any distance. Why it should help: slow pairs of full rotary positions barely
rotate, and the remaining pairs (base 1024) rotate fast enough to distinguish near from far. Due to
@YouJiacheng (modded-nanogpt). nanochat saw no change (log of 2026-01-16), which makes it a negative
control. Off: all pairs rotate, at the frequencies of `rotary`. Unrotated pairs have angle 0, so
kernels and costs are those of `rotary`. Interactions: `partial_key_offset` needs the unrotated
channels.
"""

import torch
from torch import Tensor


def half_frequencies(head_width: int, base: float, device: torch.device) -> Tensor:
    """Radians per token of every channel pair (K/2); the second half is 0."""
    rotating = head_width // 4
    frequencies = (1 / base) ** torch.linspace(0, 1, rotating, dtype=torch.float32, device=device)
    return torch.cat((frequencies, frequencies.new_zeros(rotating)))
