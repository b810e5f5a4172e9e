"""Trick `tie_then_untie`: embedding and head share a table for the first two thirds of a run.

While tied, with the head's table W (V, D) and the embedding E (V, D):

    E = W;   W's gradient is the sum of both;   the optimizer does not step E

At the split E keeps the values and moments of W; afterwards each table uses its own gradients. The
embedding uses the head's optimizer settings before and after the split, because the learning rate
of an embedding initialized at its own scale is far too high for it.

Why it should help: the embedding's gradient is sparse and initially benefits from the head's, which
touches every token; later the two need different tables. Source: modded-nanogpt, tied again in
2025-12-19 (@varunneal), untied at two thirds in 2025-12-22 (@varunneal after an idea of
@classiclarryd). Off: two tables from the start, each with its own initialization. The trick needs
an untied head; its table exists from the start, so memory and graphs are those of the untied model.
Interactions: `tables_every_second_step` moves the split to the start of an interval.
"""

from math import ceil

import torch
from torch import Tensor, nn


class Tie:
    """The two tables of one model, tied for its first `split_step` steps."""

    def __init__(self, embedding: nn.Parameter, head: nn.Parameter, *, split_step: int) -> None:
        self.embedding, self.head, self.split_step = embedding, head, split_step
        self.copy_from_head()

    def is_tied(self, step: int) -> bool:
        """Whether the tables are tied in `step` (from 0)."""
        return step < self.split_step

    def accumulate_in_head(self, step: int) -> None:
        """Before an optimizer step: add the embedding's gradient to the head's."""
        if not self.is_tied(step):
            return
        assert self.embedding.grad is not None
        assert self.head.grad is not None
        self.head.grad.add_(self.embedding.grad)
        self.embedding.grad = None  # AdamW skips it

    @torch.no_grad()
    def copy_from_head(self) -> None:
        """After an optimizer step: copy the head's values to the embedding."""
        self.embedding.copy_(self.head)


def split_step(fraction: float, steps: int, interval_steps: int) -> int:
    """First untied step: this share of the steps, rounded up to whole table intervals."""
    return ceil(ceil(fraction * steps) / interval_steps) * interval_steps


def copy_moments(state: dict[str, Tensor], table: nn.Parameter) -> dict[str, Tensor]:
    """Copy AdamW's state of one table to the dtype of another; step counts keep their dtype."""
    return {
        name: value.clone() if value.dim() == 0 else value.to(table.dtype, copy=True)
        for name, value in state.items()
    }
