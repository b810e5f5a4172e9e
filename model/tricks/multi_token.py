"""Trick `multi_token_prediction`: the loss also counts tokens after the next one.

    loss_i = sum over k < n, i + k < T of  w_k (logsumexp z_i - z_i[y_{i+k}])        mean over i

for logits z (T, V) of one row, targets y (T) and weights w (n), w_0 that of the next token. One
head, no parameters: all targets use the same logits. The weights of later tokens fall to zero
(model/config/schedules.py), so the final model predicts only the next token. Targets beyond the end
of a row do not count.

Why it should help: early in training, later tokens are a cheap, smoother signal of the topic.
Source: modded-nanogpt 2025-12-22, @varunneal; after Gloeckle and others, arXiv 2404.19737, who use
a separate head per token ahead. nanochat found no gain. Off: the next token alone. Interactions:
the sum is not divided by the sum of weights, as in the source; this does not affect Muon and AdamW,
but it affects clipping and `train_loss`. The fused loss kernel supports one target, so torch
computes this loss.
"""

import torch.nn.functional as F
from torch import Tensor

NO_TARGET = -100


def multi_token_losses(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Logits (B T, V) in fp32, targets (B, T) and weights (n) -> losses (B T)."""
    log_probabilities = logits.log_softmax(-1)  # once for all n
    total = weights[0] * F.nll_loss(log_probabilities, targets.flatten(), reduction="none")
    for ahead in range(1, weights.size(0)):
        # nll_loss instead of gather: gather's gradient scatters into a tensor of zeros
        later = F.pad(targets[:, ahead:], (0, ahead), value=NO_TARGET).flatten()
        losses = F.nll_loss(log_probabilities, later, reduction="none", ignore_index=NO_TARGET)
        total = total + weights[ahead] * losses
    return total
