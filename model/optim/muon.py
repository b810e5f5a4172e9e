"""Trick `muon`: orthogonalised momentum for the matrices.

One step on the stack of all matrices of one shape, mu the momentum:

    m = lerp(m, g, 1 - mu);  u = lerp(g, m, mu)                                       Nesterov
    u = [MuonEq] u;  u = orthogonalise(u);  [Muon+];  [NorMuon]             [...] are sub-toggles
    p -= lr max(1, rows / cols)^0.5 (u + decay p [u p >= 0])       mask only with cautious decay

Why it should help: gradients of matrices have few large singular values; steps of equal size in
all directions learn the rare ones too. Due to @kellerjordan0
(https://kellerjordan.github.io/posts/muon), @jxbz and others. Off: the same label under AdamW,
with a learning rate that has to be tuned anew. The iteration runs in the compute type (bf16 on
GPUs), the rest in fp32.

Weights and gradients of equal shape lie in one tensor, of which the parameters and their gradients
are slices: nothing is gathered before a step or scattered behind it. Over several ranks each one
updates its share of a stack; one that does not divide is filled up with matrices of zeros.
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
    even_out,
    evening_factors,
    normalised,
    orthogonalise,
    products_of,
    renormalise,
    row_factors,
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
        """Begins to give every rank the gradients of what it updates."""
        for stack in self.stacks:
            stack.reducing = stack.ranks.reduce_scatter(stack.accumulated, stack.gradients)

    @torch.no_grad()
    def step(self, *, lr_scale: float, momentum: float, decay_scale: float) -> list[Exchange]:
        """One update from the reduced gradients in place; scales are shares of the peak values.

        The weights of other ranks are there once what is returned was waited for.
        """
        lr, decay = self.lr * lr_scale, self.decay * decay_scale
        gathering = []
        for stack in self.stacks:
            assert stack.holds_gradients(), "a matrix's .grad was replaced; write into it instead"
            stack.reducing.wait()
            shape_lr = lr * max(1.0, stack.rows / stack.columns) ** 0.5
            self._update(stack, momentum, shape_lr, decay)
            gathering.append(stack.ranks.all_gather(stack.held))
        return gathering

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for stack in self.stacks:
            stack.accumulated.zero_()

    def _update(self, stack: "_Stack", momentum: float, lr: float, decay: float) -> None:
        if stack.fused is not None:
            self._fused_step(stack, momentum, lr, lr * decay)
            return
        update = self._direction(stack, momentum)
        kept = stack.weights
        if self.settings.cautious_decay:
            kept = kept * (update * kept >= 0)
        stack.weights.sub_(lr * (update + decay * kept))

    def state_dict(self) -> dict[str, Any]:
        """Momentum and second moments by the shape of their matrices; no copies."""
        return {stack.name: stack.state() for stack in self.stacks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies a `state_dict` in; of the same matrices in the same order."""
        for stack in self.stacks:
            for name, tensor in stack.state().items():
                tensor.copy_(state[stack.name][name])

    def _direction(self, stack: "_Stack", momentum: float) -> Tensor:
        settings = self.settings
        stack.momentum.lerp_(stack.gradients, 1 - momentum)
        update = stack.gradients.lerp(stack.momentum, momentum).to(self.compute)
        if settings.equalize_rows:
            update = equalize_rows(update, settings.norm_floor)
        update = orthogonalise(normalised(update), self.triples, stack.products).float()
        if settings.renormalize:
            update = renormalise(update, settings.norm_floor)
        if settings.normuon is not None:
            assert stack.moment is not None
            update = even_out(update, stack.moment, settings.normuon.beta2)
        return update

    def _fused_step(self, stack: "_Stack", momentum: float, lr: float, decay: float) -> None:
        """The same step: rows and columns are scaled by what their norms say, once at the end."""
        settings = self.settings
        update = stack.fused.advance(stack.gradients, stack.momentum, momentum, self.compute)
        floor = settings.norm_floor
        update.mul_(row_factors(update, equalize=settings.equalize_rows, floor=floor))
        update = orthogonalise(update, self.triples, stack.products)
        factors = evening_factors(
            update,
            stack.moment,
            beta2=None if settings.normuon is None else settings.normuon.beta2,
            renormalize=settings.renormalize,
            floor=floor,
        )
        stack.fused.apply(stack.weights, update, lr * factors, decay, settings.cautious_decay)


class _Stack:
    """All matrices of one shape: `held` weights and `accumulated` gradients (N, rows, columns), and
    of this rank's share (N / C, rows, columns) weights, gradients, momentum and moments."""

    def __init__(
        self, matrices: list[nn.Parameter], settings: Settings, kernels: Kernels, ranks: Ranks
    ) -> None:
        self.rows, self.columns = matrices[0].shape
        self.matrices, self.ranks = matrices, ranks
        padding = ranks.padded(len(matrices)) - len(matrices)
        zeros = [torch.zeros_like(matrices[0].data)] * padding
        self.held = torch.stack([*(matrix.data for matrix in matrices), *zeros])
        self.accumulated = torch.zeros_like(self.held)
        for matrix, weight, gradient in zip(matrices, self.held, self.accumulated, strict=False):
            matrix.data, matrix.grad = weight, gradient
        own = ranks.share(len(self.held))
        self.weights = self.held[own]
        self.gradients = self.accumulated if ranks.alone else torch.zeros_like(self.weights)
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
        """There is one stack of a shape."""
        return f"{self.rows}x{self.columns}"

    def state(self) -> dict[str, Tensor]:
        """What a step leaves for the next one, weights apart."""
        moment = {} if self.moment is None else {"moment": self.moment}
        return {"momentum": self.momentum, **moment}

    def holds_gradients(self) -> bool:
        """Whether the matrices still have the gradients that lie in the stack."""
        return all(
            matrix.grad is not None and matrix.grad.data_ptr() == gradient.data_ptr()
            for matrix, gradient in zip(self.matrices, self.accumulated, strict=False)
        )
