"""Trick `logit_rescale`: logits through a shifted sigmoid.

    bound sigmoid((z + shift) / scale)          z (..., V) in fp32; 23, 5, 7.5

Why it should help: like a softcap it bounds logits, but it is steepest at -shift, where the many
words are that do not come next, and flat where a word is already certain. With bound 30 and shift 0
it would be the softcap 15 tanh(z / 15), up to a constant. @classiclarryd (modded-nanogpt PR 181).
nanochat found it slightly worse (log of 2026-01-16). Off: logits as they are. Interactions: takes
the place of `softcap`; the fused kernel of the loss cannot compute it.
"""

import torch
from torch import Tensor

from model.config import LogitRescale as Settings


def rescaled(logits: Tensor, settings: Settings) -> Tensor:
    """Logits (..., V), between 0 and the bound."""
    return settings.bound * torch.sigmoid((logits + settings.shift) / settings.scale)
