"""Trick `half_rotary`: half of the channels turn with position, the other half stand still.

    pair p of a head turns by t base^(-p / (K/4 - 1)) for p < K/4, and not at all from K/4 on

Channels p and p + K/2 are a pair, so K/4 .. K/2 and 3K/4 .. K are still: a query finds a key by
content there, wherever it stands. Why it should help: slow pairs of full rotary positions hardly
turn anyway, and the ones that are left turn fast enough (base 1024) to tell near from far. Due to
@YouJiacheng (modded-nanogpt). nanochat saw no change (log of 2026-01-16), which makes it a negative
control. Off: all pairs turn, at the frequencies of `rotary`. A pair that stands still is turned by
the angle 0, so kernels and costs are those of `rotary`. Interactions: `partial_key_offset` needs
the still channels.
"""

import torch
from torch import Tensor


def half_frequencies(head_width: int, base: float, device: torch.device) -> Tensor:
    """Radians a token of every channel pair (K/2), the second half 0."""
    turning = head_width // 4
    moving = (1 / base) ** torch.linspace(0, 1, turning, dtype=torch.float32, device=device)
    return torch.cat((moving, moving.new_zeros(turning)))
