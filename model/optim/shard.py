"""One rank's shard of a tensor under AdamW: its rows of a large tensor, all of a small one.

If C ranks can divide the rows of a large tensor (n, ...) evenly, each rank stores moments and
gradients of n / C rows. Every rank updates small tensors in full, from the all-reduced gradient. A
single rank passes its parameters to AdamW directly.
"""

import torch
from torch import Tensor, nn

from model.distributed.ranks import Exchange, Ranks

SMALL_ELEMENTS = 2**16  # below this size, latency dominates communication


class OptimizerShard:
    """One parameter; AdamW updates `local`: rows of the parameter, or all of it."""

    def __init__(self, full: nn.Parameter, ranks: Ranks, label: str) -> None:
        self.full, self.ranks, self.label = full, ranks, label
        rows = full.size(0)
        self.split = rows % ranks.count == 0 and full.numel() >= SMALL_ELEMENTS
        self.local = full
        if self.split:
            self.local = nn.Parameter(full.data[ranks.share(rows)])  # a view
            full.register_post_accumulate_grad_hook(self._on_gradient)
        self._reduce_early = False
        self._reducing: Exchange | None = None

    @property
    def gradient(self) -> Tensor:
        """The gradient for AdamW, valid after the reduction."""
        assert self.local.grad is not None
        return self.local.grad

    def reduce_when_ready(self) -> None:
        """Start the reduction as soon as the next backward pass has added its gradient."""
        self._reduce_early = True

    def reduce(self) -> None:
        """Start the reduction over ranks, if it has not started."""
        if self._reducing is not None:
            return
        gradient = self.full.grad
        assert gradient is not None, "a parameter without a gradient"
        if self.split:
            self.local.grad = torch.empty_like(self.local)
            self._reducing = self.ranks.reduce_scatter(gradient, self.local.grad)
        else:
            self._reducing = self.ranks.all_reduce(gradient)

    def wait_reduced(self) -> None:
        """Wait for the reduction."""
        assert self._reducing is not None
        self._reducing.wait()

    def gather(self) -> Exchange:
        """Start to gather the rows that other ranks updated."""
        return self.ranks.all_gather(self.full.data) if self.split else Exchange(None)

    def zero_grad(self) -> None:
        """Clear gradients and the state of the reduction."""
        if self._reducing is not None:
            self._reducing.wait()  # started during compilation, without a step
        self.full.grad = self.local.grad = None
        self._reduce_early, self._reducing = False, None

    def _on_gradient(self, _: Tensor) -> None:
        if self._reduce_early:
            self.reduce()
