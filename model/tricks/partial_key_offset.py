"""Trick `partial_key_offset`: the still channels of a key come from the token before.

    k_t = (turning channels of k_t, still channels of k_{t-1})        k (B, T, H, K), t >= 1

in layers whose window is the whole context; position 0 keeps its own key. Why it should help: a
query that looks for the token after "Harry" matches "Harry" in the still channels of the next
position, so that one layer does what otherwise takes two (an induction head). Due to @classiclarryd
(modded-nanogpt PR 169; PR 201 for the channels), who found the loss lowest with it in every layer
and the time with it in the long ones. Off: keys stay with their tokens. Comes after rotation and
norm, where keys go into attention. Interactions: needs `half_rotary`; rows hold several documents,
and the first token of one gets channels of the last token of the one before, as attention sees it
anyway.
"""

import torch
from torch import Tensor


def offset(k: Tensor) -> Tensor:
    """Keys (B, T, H, K), with the still channels of the token before."""
    quarter = k.size(-1) // 4
    turning, still = k.unflatten(-1, (2, 2, quarter)).unbind(-2)  # (B, T, H, 2, K/4) each
    before = torch.cat((still[:, :1], still[:, :-1]), dim=1)
    return torch.stack((turning, before), dim=-2).flatten(-3)
