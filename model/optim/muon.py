"""Trick `muon`: orthogonalized momentum for the matrices.

One step on the stack of all matrices of one shape, mu the momentum:

    m = lerp(m, g, 1 - mu);  u = lerp(g, m, mu)                                       Nesterov
    u = [MuonEq] u;  u = orthogonalize(u);  [Muon+];  [NorMuon]             [...] are sub-toggles
    p -= lr max(1, rows / cols)^0.5 (u + decay p [u p >= 0])       mask only with cautious decay

Why it should help: gradients of matrices have few large singular values; steps of equal size in all
directions also learn the rare ones. Due to @kellerjordan0
(https://kellerjordan.github.io/posts/muon), @jxbz and others. Off: the same label under AdamW,
whose learning rate must be tuned separately. The iteration runs in the compute type (bf16 on GPUs),
the rest in fp32.

Weights and gradients of equal shape are slices of one tensor, so a step neither gathers nor
scatters them. With several ranks, each updates its shard of a stack; a stack that ranks do not
divide is padded with zero matrices.
"""

from typing import Any

import torch
from torch import Tensor, nn

from model.config import Muon as Settings
from model.distributed.ranks import ALONE, Exchange, Ranks
from model.kernels import REFERENCE, Kernels, fused
from model.optim.orthogonal import (
    coefficients,
    equalize_rows,
    normalization_factors,
    normalize,
    normalize_by_moment,
    orthogonalize,
    products_of,
    renormalize_update,
    row_normalization_factors,
)


class Muon:
    """Holds stacked momentum and second moments; `step` updates all matrices in place."""

    def __init__(
        self,
        matrices: list[nn.Parameter],
        settings: Settings,
        *,
        lr: float,
        decay: float,
        compute: torch.dtype,
        kernels: Kernels = REFERENCE,
        ranks: Ranks = ALONE,
    ) -> None:
        self.settings, self.lr, self.decay, self.compute = settings, lr, decay, compute
        self.triples = coefficients(settings.orthogonalize, settings.iterations)
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        self.stacks = [_Stack(same, settings, kernels, ranks) for same in by_shape.values()]

    def reduce(self) -> None:
        """Start to reduce-scatter gradients to the ranks that update them."""
        for stack in self.stacks:
            stack.reducing = stack.ranks.reduce_scatter(stack.all_gradients, stack.gradients)

    @torch.no_grad()
    def step(self, *, lr_scale: float, momentum: float, decay_scale: float) -> list[Exchange]:
        """One in-place update from the reduced gradients; scales are shares of the peak values.

        The weights of other ranks are valid after waiting for the returned exchanges.
        """
        lr, decay = self.lr * lr_scale, self.decay * decay_scale
        gathering = []
        for stack in self.stacks:
            assert stack.has_stacked_gradients(), (
                "a matrix's .grad was replaced; modify it in place"
            )
            stack.reducing.wait()
            shape_lr = lr * max(1.0, stack.rows / stack.columns) ** 0.5
            self._update(stack, momentum, shape_lr, decay)
            gathering.append(stack.ranks.all_gather(stack.all_weights))
        return gathering

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for stack in self.stacks:
            stack.all_gradients.zero_()

    def _update(self, stack: "_Stack", momentum: float, lr: float, decay: float) -> None:
        if stack.fused is not None:
            self._fused_step(stack, momentum, lr, lr * decay)
            return
        update = self._direction(stack, momentum)
        decayed = stack.weights
        if self.settings.cautious_decay:
            decayed = decayed * (update * decayed >= 0)
        stack.weights.sub_(lr * (update + decay * decayed))

    def state_dict(self) -> dict[str, Any]:
        """Momentum and second moments by matrix shape, not copied."""
        return {stack.name: stack.state() for stack in self.stacks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a `state_dict` of the same matrices in the same order."""
        for stack in self.stacks:
            for name, tensor in stack.state().items():
                tensor.copy_(state[stack.name][name])

    def _direction(self, stack: "_Stack", momentum: float) -> Tensor:
        settings = self.settings
        stack.momentum.lerp_(stack.gradients, 1 - momentum)
        update = stack.gradients.lerp(stack.momentum, momentum).to(self.compute)
        if settings.equalize_rows:
            update = equalize_rows(update, settings.norm_floor)
        update = orthogonalize(normalize(update), self.triples, stack.products).float()
        if settings.renormalize:
            update = renormalize_update(update, settings.norm_floor)
        if settings.normuon is not None:
            assert stack.moment is not None
            update = normalize_by_moment(update, stack.moment, settings.normuon.beta2)
        return update

    def _fused_step(self, stack: "_Stack", momentum: float, lr: float, decay: float) -> None:
        """The same step with fused kernels: normalizations become one factor per row or column."""
        settings = self.settings
        update = stack.fused.update_momentum(
            stack.gradients, stack.momentum, momentum, self.compute
        )
        floor = settings.norm_floor
        update.mul_(row_normalization_factors(update, equalize=settings.equalize_rows, floor=floor))
        update = orthogonalize(update, self.triples, stack.products)
        factors = normalization_factors(
            update,
            stack.moment,
            beta2=None if settings.normuon is None else settings.normuon.beta2,
            renormalize=settings.renormalize,
            floor=floor,
        )
        stack.fused.apply_update(
            stack.weights, update, lr * factors, decay, settings.cautious_decay
        )


class _Stack:
    """All matrices of one shape: `all_weights` and `all_gradients` (N, rows, columns), and this
    rank's shard (N / C, rows, columns) of weights, gradients, momentum and moments."""

    def __init__(
        self, matrices: list[nn.Parameter], settings: Settings, kernels: Kernels, ranks: Ranks
    ) -> None:
        self.rows, self.columns = matrices[0].shape
        self.matrices, self.ranks = matrices, ranks
        padding = ranks.padded(len(matrices)) - len(matrices)
        zeros = [torch.zeros_like(matrices[0].data)] * padding
        self.all_weights = torch.stack([*(matrix.data for matrix in matrices), *zeros])
        self.all_gradients = torch.zeros_like(self.all_weights)
        for matrix, weight, gradient in zip(
            matrices, self.all_weights, self.all_gradients, strict=False
        ):
            matrix.data, matrix.grad = weight, gradient
        local = ranks.share(len(self.all_weights))
        self.weights = self.all_weights[local]
        self.gradients = self.all_gradients if ranks.alone else torch.zeros_like(self.weights)
        self.reducing = Exchange(None)
        self.momentum = torch.zeros_like(self.weights)
        self.moment: Tensor | None = None
        if settings.normuon is not None:
            by_row = self.rows >= self.columns
            shape = (self.rows, 1) if by_row else (1, self.columns)
            self.moment = self.weights.new_zeros(len(self.weights), *shape)
        self.products = products_of(kernels.products, self.rows, self.columns)
        self.fused: Any = fused(kernels.muon, "muon")

    @property
    def name(self) -> str:
        """The shape; stacks have distinct shapes."""
        return f"{self.rows}x{self.columns}"

    def state(self) -> dict[str, Tensor]:
        """Momentum and second moments of the shard."""
        moment = {} if self.moment is None else {"moment": self.moment}
        return {"momentum": self.momentum, **moment}

    def has_stacked_gradients(self) -> bool:
        """Whether each matrix's .grad is still a slice of the stack."""
        return all(
            matrix.grad is not None and matrix.grad.data_ptr() == gradient.data_ptr()
            for matrix, gradient in zip(self.matrices, self.all_gradients, strict=False)
        )
