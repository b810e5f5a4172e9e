"""YaRN: rotary frequencies after the long window has grown (formula in `window_warmup`).

Peng and others, arXiv 2309.00071. A separate file, because `rotary` and `window_warmup` both use
it.
"""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor

MIN_ROTATIONS, MAX_ROTATIONS = 1, 32  # alpha and beta of the paper

WindowChange = tuple[int, int]
"""Long window in tokens before and after a change."""


def scale_frequencies(frequencies: Tensor, window_changes: Sequence[WindowChange]) -> Tensor:
    """Frequencies (K/2) after the given window changes."""
    for old, new in window_changes:
        rotations = old * frequencies / (2 * pi)
        keep = torch.clamp((rotations - MIN_ROTATIONS) / (MAX_ROTATIONS - MIN_ROTATIONS), 0, 1)
        frequencies = frequencies * (old / new + keep * (1 - old / new))
    return frequencies
