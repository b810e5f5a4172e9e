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
are slices: nothing is gathered before a step or scattered behind it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from model.config import Muon as Settings
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
    ) -> None:
        self.settings, self.lr, self.decay, self.compute = settings, lr, decay, compute
        self.triples = coefficients(settings.orthogonalize, settings.iterations)
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        self.stacks = [_Stack(same, settings, kernels) for same in by_shape.values()]

    @torch.no_grad()
    def step(self, *, lr_scale: float, momentum: float, decay_scale: float) -> None:
        """One update from the gradients in place; scales are shares of the peak values."""
        lr, decay = self.lr * lr_scale, self.decay * decay_scale
        for stack in self.stacks:
            assert stack.holds_gradients(), "a matrix's .grad was replaced; write into it instead"
            shape_lr = lr * max(1.0, stack.rows / stack.columns) ** 0.5
            if stack.fused is not None:
                self._fused_step(stack, momentum, shape_lr, shape_lr * decay)
                continue
            update = self._direction(stack, momentum)
            kept = stack.weights
            if self.settings.cautious_decay:
                kept = kept * (update * kept >= 0)
            stack.weights.sub_(shape_lr * (update + decay * kept))

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for stack in self.stacks:
            stack.gradients.zero_()

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
            update = equalize_rows(update)
        update = orthogonalise(normalised(update), self.triples, stack.products).float()
        if settings.renormalize:
            update = renormalise(update)
        if settings.normuon is not None:
            assert stack.moment is not None
            update = even_out(update, stack.moment, settings.normuon.beta2)
        return update

    def _fused_step(self, stack: "_Stack", momentum: float, lr: float, decay: float) -> None:
        """The same step: rows and columns are scaled by what their norms say, once at the end."""
        settings = self.settings
        update = stack.fused.advance(stack.gradients, stack.momentum, momentum, self.compute)
        update.mul_(row_factors(update, equalize=settings.equalize_rows))
        update = orthogonalise(update, self.triples, stack.products)
        factors = evening_factors(
            update,
            stack.moment,
            beta2=None if settings.normuon is None else settings.normuon.beta2,
            renormalize=settings.renormalize,
        )
        stack.fused.apply(stack.weights, update, lr * factors, decay, settings.cautious_decay)


class _Stack:
    """All matrices of one shape (N, rows, columns): weights, gradients, momentum, moments."""

    def __init__(self, matrices: list[nn.Parameter], settings: Settings, kernels: Kernels) -> None:
        self.rows, self.columns = matrices[0].shape
        self.matrices = matrices
        self.weights = torch.stack([matrix.data for matrix in matrices])
        self.gradients = torch.zeros_like(self.weights)
        for matrix, weight, gradient in zip(matrices, self.weights, self.gradients, strict=True):
            matrix.data, matrix.grad = weight, gradient
        self.momentum = torch.zeros_like(self.weights)
        self.moment: Tensor | None = None
        if settings.normuon is not None:
            by_row = self.rows >= self.columns
            shape = (len(matrices), self.rows, 1) if by_row else (len(matrices), 1, self.columns)
            self.moment = torch.zeros(shape, device=self.weights.device)
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
            for matrix, gradient in zip(self.matrices, self.gradients, strict=True)
        )
