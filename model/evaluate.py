"""Validation loss and bits per byte over fixed rows.

    val_loss = nats / target tokens             val_bpb = nats / (ln 2 * bytes of the target tokens)

over the same target tokens of the same rows, without special tokens (which have no bytes).
Sums are in fp64.
"""

from dataclasses import dataclass
from math import log

import numpy as np
import torch
from torch import Tensor

from model.distributed.ranks import ALONE, Ranks
from model.gpt import GPT


@dataclass(frozen=True)
class Validation:
    """One evaluation."""

    val_loss: float
    """Nats per token."""
    val_bpb: float
    """Bits per byte."""


def evaluate(
    model: GPT,
    rows: np.ndarray,
    bytes_per_token: Tensor,
    rows_per_forward: int,
    ranks: Ranks = ALONE,
) -> Validation:
    """Evaluate `rows` (R, T+1) of token ids, this rank's share; `bytes_per_token` (V) is on the
    model's device, 0 for special tokens.

    Uses the same forward pass as training, with gradients recorded and full batches (the last one
    is padded, and padding does not count). A different pass would recompile the model, which took
    22 s on an H100, more than the evaluations themselves.
    """
    device = bytes_per_token.device
    nats = torch.zeros((), dtype=torch.float64, device=device)
    count = torch.zeros((), dtype=torch.int64, device=device)
    size = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(rows), rows_per_forward):
        chunk = rows[start : start + rows_per_forward].astype(np.int64)
        padding = np.repeat(chunk[-1:], rows_per_forward - len(chunk), axis=0)
        tokens = torch.from_numpy(np.concatenate([chunk, padding])).to(device)
        targets = tokens[:, 1:].contiguous()
        losses = model.token_losses(tokens[:, :-1], targets)  # (rows * T)
        length = bytes_per_token[targets.flatten()]
        length[len(chunk) * targets.size(1) :] = 0
        counted = length > 0
        nats += (losses.double() * counted).sum()
        count += counted.sum()
        size += length.sum()
    for sum_of_rank in (nats, count, size):
        ranks.all_reduce(sum_of_rank).wait()
    total = nats.item()
    return Validation(val_loss=total / count.item(), val_bpb=total / (log(2) * size.item()))
