"""Trick `partial_key_offset`: a key takes its unrotated channels from the previous token.

    k_t = (rotated channels of k_t, unrotated channels of k_{t-1})        k (B, T, H, K), t >= 1

in layers whose window is the whole context; position 0 keeps its own key. Why it should help: a
query for the token after "Harry" matches "Harry" in the unrotated channels of the next position, so
one layer does what otherwise takes two (an induction head). Due to @classiclarryd (modded-nanogpt
PR 169; PR 201 for the channels), who measured the lowest loss with it in every layer and the lowest
time with it in long-window layers. Off: keys are unchanged. It applies after rotation and norm,
directly before attention. Interactions: needs `half_rotary`; rows hold several documents, and the
first token of a document takes channels of the previous document's last token, which attention also
sees.
"""

import torch
from torch import Tensor


def offset_keys(k: Tensor) -> Tensor:
    """Keys (B, T, H, K) with the unrotated channels of the previous token."""
    quarter = k.size(-1) // 4
    rotated, unrotated = k.unflatten(-1, (2, 2, quarter)).unbind(-2)  # (B, T, H, 2, K/4) each
    previous = torch.cat((unrotated[:, :1], unrotated[:, :-1]), dim=1)
    return torch.stack((rotated, previous), dim=-2).flatten(-3)
