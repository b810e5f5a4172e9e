"""Trick `adamw_cautious_decay`: AdamW decays a weight only where its update shrinks it too.

    m = lerp(m, g, 1 - beta1);  v = lerp(v, g g, 1 - beta2)
    u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)         t steps of this tensor so far
    p = p - lr (u + decay p [u p > 0])                                elementwise, any shape

for the labels of AdamW that have a decay, or those in `labels`. Why it should help: where the
gradient pushes a weight outwards, decay works against what the loss asks for; without it there the
run converges to what the loss alone has as optimum, with smaller weights on the way.

Source: cautious weight decay, Chen and others, arXiv 2510.12402; for Muon in modded-nanogpt PR 154
(2025-11-10, @varunneal), for Adam in PR 172 (2025-12-18, @roeeshenberg: embedding, head, value
tables and gates, no scalars). nanochat has it for Muon alone. Variants of the record: its decay is
multiplied by the squared learning rate, here by the learning rate as in AdamW; a label without
decay keeps its own decay of 0. The mask is the record's for Adam, so a weight without an update
does not decay; Muon's is u p >= 0.

Off: torch's fused AdamW, p = p - lr (u + decay p). That kernel decays before it knows u. To take
decay out of it and apply it by itself would lose it: lr decay p is below the rounding of a table in
bf16 (0.2 %), so it has to be added up with the update and rounded once. So this step is computed
here, in fp32, moments kept as torch keeps them and weights rounded once; compiled, it is one pass
over memory as torch's is. Over ranks each steps its own rows. Interactions: `muon` has a mask of
its own (`muon_cautious_decay`), and while it is on the label `matrices` is not AdamW's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Advance = Callable[..., None]


class CautiousAdamW(torch.optim.AdamW):
    """torch's fused AdamW, but for parameter groups with `cautious`; the same states."""

    def __init__(self, groups: list[dict[str, Any]], *, compiled: bool) -> None:
        super().__init__(groups, fused=True)
        self.advance: Advance = advance
        if compiled:
            self.advance = torch.compile(advance, dynamic=False, fullgraph=True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Passes over tensors without a gradient, as torch does."""
        cautious = [(group, tensor, tensor.grad) for group, tensor in self._cautious()]
        for _, tensor, _ in cautious:
            tensor.grad = None
        super().step()
        for group, tensor, gradient in cautious:
            tensor.grad = gradient
            if gradient is not None:
                if tensor not in self.state:
                    self.state[tensor] = begun(tensor)
                state = self.state[tensor]
                state["step"] += 1
                self._advance(group, tensor, gradient, state)

    @torch.no_grad()
    def warm_up(self) -> None:
        """Compiles the step of every cautious tensor, on values of no consequence."""
        for group, tensor in self._cautious():
            copy = torch.zeros_like(tensor, requires_grad=False)
            self._advance(group, copy, torch.zeros_like(copy), begun(tensor))

    def _cautious(self) -> list[tuple[dict[str, Any], Tensor]]:
        groups = [group for group in self.param_groups if group.get("cautious")]
        return [(group, tensor) for group in groups for tensor in group["params"]]

    def _advance(
        self, group: dict[str, Any], tensor: Tensor, gradient: Tensor, state: dict[str, Tensor]
    ) -> None:
        beta1, beta2 = group["betas"]
        self.advance(
            tensor.detach(),
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["step"],
            torch.tensor(group["lr"]),  # a tensor, because another number would be another graph
            decay=group["weight_decay"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
        )


def begun(tensor: Tensor) -> dict[str, Tensor]:
    """The state that torch's own begins with."""
    zeros = {name: torch.zeros_like(tensor) for name in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.zeros((), device=tensor.device), **zeros}


def advance(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    lr: Tensor,
    *,
    decay: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One step in place on tensors of one shape; `steps` (0-d) counts this one too."""
    p, g = weight.float(), gradient.float()
    steps = steps.double()  # 1 - 0.995 in fp32 would be off by 1e-5
    m, v = first.float().lerp(g, 1 - beta1), second.float().lerp(g * g, 1 - beta2)
    update = m / (1 - beta1**steps) / ((v / (1 - beta2**steps)).sqrt() + eps)
    decayed = torch.where(update * p > 0, update + decay * p, update)
    first.copy_(m)
    second.copy_(v)
    weight.copy_(p - lr * decayed)
