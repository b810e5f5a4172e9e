"""Trick `multi_token_prediction`: the tokens after the next one count in the loss too.

With logits z (T, V) of one row, targets y (T) and weights w (n), w_0 that of the next token:

    loss_i = sum over k < n, i + k < T of  w_k (logsumexp z_i - z_i[y_{i+k}])        mean over i

One head, no parameter: the same logits are asked for several tokens, and since weights fall to zero
(model/config/schedules.py) the model ends as a predictor of the next token only. Near the end of a
row the tokens further ahead are not there and do not count.

Why it should help: early in training the tokens ahead are a cheap, smoother signal of what the
text is about. Source: modded-nanogpt 2025-12-22, @varunneal; after Gloeckle and others, arXiv
2404.19737, who give each token ahead a head of its own. nanochat found no gain. Off: the next token
alone. Interactions: the sum is not divided by the weights' sum, as in the source; Muon and AdamW do
not see that, clipping and `train_loss` do. The fused loss kernel knows one target, so torch
computes this loss.
"""

import torch.nn.functional as F
from torch import Tensor

NO_TARGET = -100


def weighted_losses(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Logits (B T, V) in fp32, targets (B, T) and weights (n) -> losses (B T)."""
    log_probabilities = logits.log_softmax(-1)  # once for all n
    total = weights[0] * F.nll_loss(log_probabilities, targets.flatten(), reduction="none")
    for ahead in range(1, weights.size(0)):
        # nll_loss and not gather: its gradient is no tensor of zeros to be scattered into
        later = F.pad(targets[:, ahead:], (0, ahead), value=NO_TARGET).flatten()
        losses = F.nll_loss(log_probabilities, later, reduction="none", ignore_index=NO_TARGET)
        total = total + weights[ahead] * losses
    return total
