"""YaRN: rotary frequencies after the long window has grown (`window_warmup` has the formula).

Peng and others, arXiv 2309.00071. A file of its own, because rotary positions apply it and the
schedule of windows decides it.
"""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor

FEWEST_TURNS, MOST_TURNS = 1, 32  # alpha and beta of the paper

Stretch = tuple[int, int]
"""The long window before and after a change."""


def stretched(frequencies: Tensor, stretches: Sequence[Stretch]) -> Tensor:
    """Frequencies (K/2) after these changes."""
    for old, new in stretches:
        turns = old * frequencies / (2 * pi)
        keep = torch.clamp((turns - FEWEST_TURNS) / (MOST_TURNS - FEWEST_TURNS), 0, 1)
        frequencies = frequencies * (old / new + keep * (1 - old / new))
    return frequencies
