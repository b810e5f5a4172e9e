"""Trick `logit_rescale`: logits through a shifted sigmoid.

    bound sigmoid((z + shift) / scale)          z (..., V) in fp32; 23, 5, 7.5

Why it should help: it bounds logits as a softcap does, but it is steepest at -shift, where most of
the improbable tokens are, and flat for a token that is already certain. With bound 30 and shift 0
it equals the softcap 15 tanh(z / 15), up to a constant. @classiclarryd (modded-nanogpt PR 181).
nanochat found it slightly worse (log of 2026-01-16). Off: logits are unchanged. Interactions: it
replaces `softcap`; the fused loss kernel cannot compute it.
"""

import torch
from torch import Tensor

from model.config import LogitRescale as Settings


def rescale_logits(logits: Tensor, settings: Settings) -> Tensor:
    """Logits (..., V) between 0 and the bound."""
    return settings.bound * torch.sigmoid((logits + settings.shift) / settings.scale)
