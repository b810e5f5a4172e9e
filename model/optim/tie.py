"""Trick `tie_then_untie`: for the first two thirds of a run the embedding is the head's table.

While tied, with the head's table W (V, D) and the embedding E (V, D):

    E = W;   W's gradient is the sum of both;   E takes no step of its own

At the split E keeps W's values and W's moments, and each goes on with its own gradients. The
embedding follows the optimizer settings of the head before and after: the rate of an embedding
drawn at its own scale is many times too high for it.

Why it should help: the embedding's gradient is sparse and profits at first from the head's, which
every token touches; later the two want different tables. Source: modded-nanogpt, tied again in
2025-12-19 (@varunneal), untied at two thirds in 2025-12-22 (@varunneal after an idea of
@classiclarryd). Off: two tables from the start, each drawn for itself. It needs an untied head,
whose table is there from the start, so that memory and graphs are those of the untied model.
Interactions: `tables_every_second_step` moves the split to the start of an interval.
"""

from math import ceil

import torch
from torch import Tensor, nn


class Tie:
    """The two tables of one model, tied for its first `split_step` steps."""

    def __init__(self, embedding: nn.Parameter, head: nn.Parameter, *, split_step: int) -> None:
        self.embedding, self.head, self.split_step = embedding, head, split_step
        self.follow()

    def holds(self, step: int) -> bool:
        """Whether the two are one table in `step` (from 0)."""
        return step < self.split_step

    def gather(self, step: int) -> None:
        """Before an optimizer step: the embedding's gradient goes to the head."""
        if not self.holds(step):
            return
        assert self.embedding.grad is not None
        assert self.head.grad is not None
        self.head.grad.add_(self.embedding.grad)
        self.embedding.grad = None  # AdamW passes over it

    @torch.no_grad()
    def follow(self) -> None:
        """After an optimizer step: the embedding takes the head's values."""
        self.embedding.copy_(self.head)


def split_step(fraction: float, steps: int, interval_steps: int) -> int:
    """First step after the tie: that share of the steps, up to whole intervals of the tables."""
    return ceil(ceil(fraction * steps) / interval_steps) * interval_steps


def moments_like(state: dict[str, Tensor], table: nn.Parameter) -> dict[str, Tensor]:
    """What AdamW keeps of one table, copied in another's number format; counts as they are."""
    return {
        name: value.clone() if value.dim() == 0 else value.to(table.dtype, copy=True)
        for name, value in state.items()
    }
