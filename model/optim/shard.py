"""What one rank updates of a tensor under AdamW: its rows of a large one, all of a small one.

Of a large tensor (n, ...) whose rows the ranks can share evenly a rank keeps moments and gradients
of n / C rows; a small one is updated by every rank alike, from the sum of all ranks' gradients.
Only where there are several ranks; one alone hands its parameters to AdamW as they are.
"""

import torch
from torch import Tensor, nn

from model.distributed.ranks import Exchange, Ranks

SMALL_ELEMENTS = 2**16  # below this, an exchange costs its latency and not its bytes


class OptimizerShard:
    """One parameter; `own` is what AdamW updates: rows of it, or itself."""

    def __init__(self, whole: nn.Parameter, ranks: Ranks, label: str) -> None:
        self.whole, self.ranks, self.label = whole, ranks, label
        rows = whole.size(0)
        self.split = rows % ranks.count == 0 and whole.numel() >= SMALL_ELEMENTS
        self.own = whole
        if self.split:
            self.own = nn.Parameter(whole.data[ranks.share(rows)])  # the same memory
            whole.register_post_accumulate_grad_hook(self._is_there)
        self._early = False
        self._reducing: Exchange | None = None

    @property
    def gradient(self) -> Tensor:
        """What AdamW reads, once reduced."""
        assert self.own.grad is not None
        return self.own.grad

    def reduce_when_there(self) -> None:
        """Begins as soon as the next backward pass has added its gradient."""
        self._early = True

    def reduce(self) -> None:
        """Begins the sum over ranks, where it has not begun."""
        if self._reducing is not None:
            return
        gradient = self.whole.grad
        assert gradient is not None, "a parameter without a gradient"
        if self.split:
            self.own.grad = torch.empty_like(self.own)
            self._reducing = self.ranks.reduce_scatter(gradient, self.own.grad)
        else:
            self._reducing = self.ranks.all_reduce(gradient)

    def reduced(self) -> None:
        """Waits for it."""
        assert self._reducing is not None
        self._reducing.wait()

    def gather(self) -> Exchange:
        """Begins to fetch what other ranks updated."""
        return self.ranks.all_gather(self.whole.data) if self.split else Exchange(None)

    def zero_grad(self) -> None:
        """Forgets the gradients, and that they were reduced."""
        if self._reducing is not None:
            self._reducing.wait()  # begun while compiling, where no step follows
        self.whole.grad = self.own.grad = None
        self._early, self._reducing = False, None

    def _is_there(self, _: Tensor) -> None:
        if self._early:
            self.reduce()
