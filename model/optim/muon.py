"""Trick `muon`: orthogonalised momentum for the matrices.

One step on the stack of all matrices of one shape, mu the momentum:

m = lerp(m, g, 1 - mu);  u = lerp(g, m, mu)                    Nesterov u = [MuonEq] u;  u =
orthogonalise(u);  [Muon+];  [NorMuon]     parts in brackets are sub-toggles p -= lr max(1, rows /
cols)^0.5 (u + decay p [u p >= 0])        mask only with cautious decay

Why it should help: gradients of matrices have few large singular values; steps of equal size in
all directions learn the rare ones too. Due to @kellerjordan0
(https://kellerjordan.github.io/posts/muon), @jxbz and others. Off: the same label under AdamW,
with a learning rate that has to be tuned anew. The iteration runs in the compute type (bf16 on
GPUs), the rest in fp32.
"""

import torch
from torch import Tensor, nn

from model.config import Muon as Settings
from model.optim.orthogonal import (
    coefficients,
    equalize_rows,
    even_out,
    orthogonalise,
    products_of,
    renormalise,
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
        kernel: str = "torch",
    ) -> None:
        self.settings, self.lr, self.decay, self.compute = settings, lr, decay, compute
        self.products = products_of(kernel)
        self.triples = coefficients(settings.orthogonalize, settings.iterations)
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        self.stacks = [_Stack(same, settings) for same in by_shape.values()]

    @torch.no_grad()
    def step(self, *, lr_scale: float, momentum: float, decay_scale: float) -> None:
        """One update from the gradients in place; scales are shares of the peak values."""
        lr, decay = self.lr * lr_scale, self.decay * decay_scale
        for stack in self.stacks:
            gradients = torch.stack([matrix.grad for matrix in stack.matrices])  # type: ignore[misc]
            update = self._direction(gradients, stack, momentum)
            shape_lr = lr * max(1.0, stack.rows / stack.columns) ** 0.5
            weights = torch.stack([matrix.data for matrix in stack.matrices])  # (N, rows, columns)
            kept = weights
            if self.settings.cautious_decay:
                kept = weights * (update * weights >= 0)
            weights = weights - shape_lr * (update + decay * kept)
            torch._foreach_copy_([matrix.data for matrix in stack.matrices], list(weights.unbind()))

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for stack in self.stacks:
            for matrix in stack.matrices:
                matrix.grad = None

    def _direction(self, gradients: Tensor, stack: "_Stack", momentum: float) -> Tensor:
        settings = self.settings
        stack.momentum.lerp_(gradients, 1 - momentum)
        update = gradients.lerp(stack.momentum, momentum).to(self.compute)
        if settings.equalize_rows:
            update = equalize_rows(update)
        update = orthogonalise(update, self.triples, self.products).float()
        if settings.renormalize:
            update = renormalise(update)
        if settings.normuon is not None:
            assert stack.moment is not None
            update = even_out(update, stack.moment, settings.normuon.beta2)
        return update


class _Stack:
    """All matrices of one shape, their momentum (N, rows, columns) and second moment."""

    def __init__(self, matrices: list[nn.Parameter], settings: Settings) -> None:
        self.matrices = matrices
        self.rows, self.columns = matrices[0].shape
        count, device = len(matrices), matrices[0].device
        self.momentum = torch.zeros(count, self.rows, self.columns, device=device)
        self.moment: Tensor | None = None
        if settings.normuon is not None:
            by_row = self.rows >= self.columns
            shape = (count, self.rows, 1) if by_row else (count, 1, self.columns)
            self.moment = torch.zeros(shape, device=device)
