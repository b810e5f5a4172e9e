"""Trick `multi_token_prediction`: the tokens after the next one count in the loss too.

With logits z (T, V) of one row, targets y (T) and weights w (n), w_0 that of the next token:

    loss_i = sum over k < n, i + k < T of  w_k (logsumexp z_i - z_i[y_{i+k}])        mean over i

One head, no parameter: the same logits are asked for several tokens, and since weights fall to
zero (model/schedules.py) the model ends as a predictor of the next token only. Near the end of a
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


def weighted_losses(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Logits (B T, V) in fp32, targets (B, T) and weights (n) -> losses (B T)."""
    rows, tokens = targets.shape
    logits = logits.unflatten(0, (rows, tokens))
    log_sum = logits.logsumexp(-1)  # (B, T), once for all n
    total = weights[0] * (log_sum - _picked(logits, targets))
    for ahead in range(1, weights.size(0)):
        seen = tokens - ahead
        there = log_sum[:, :seen] - _picked(logits[:, :seen], targets[:, ahead:])
        total = total + weights[ahead] * F.pad(there, (0, ahead))
    return total.flatten()


def _picked(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, T, V) and (B, T) -> the logit of each target (B, T)."""
    return logits.gather(-1, targets[..., None]).squeeze(-1)
