"""Trick `adamw_cautious_decay`: AdamW decays a weight only where the update also shrinks it.

    m = lerp(m, g, 1 - beta1);  v = lerp(v, g g, 1 - beta2)
    u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)         t steps of this tensor so far
    p = p - lr (u + decay p [u p > 0])                                elementwise, any shape

It applies to the AdamW labels that have a decay, or to those in `labels`. Why it should help: where
the gradient enlarges a weight, decay opposes the loss. Without decay there, the run converges to an
optimum of the loss itself, with smaller weights on the way.

Source: cautious weight decay, Chen and others, arXiv 2510.12402; for Muon in modded-nanogpt PR 154
(2025-11-10, @varunneal), for Adam in PR 172 (2025-12-18, @roeeshenberg: embedding, head, value
tables and gates, no scalars). nanochat uses it for Muon only. Differences from that record: its
decay is multiplied by the squared learning rate, here by the learning rate as in AdamW; a label
without decay keeps decay 0. The mask is the record's for Adam, so a weight without an update does
not decay; Muon's mask is u p >= 0.

Off: torch's fused AdamW, p = p - lr (u + decay p). That kernel applies decay before it computes u.
A separate decay pass would lose it: lr decay p is below the rounding of a bf16 table (0.2 %), so it
must be added to the update before rounding. This file therefore computes the step in fp32, stores
moments as torch does and rounds weights once. Compiled, the step is one pass over memory, as
torch's is. Each rank steps its own rows. Interactions: `muon` has its own mask
(`muon_cautious_decay`); with Muon on, AdamW does not update the label `matrices`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

AdamWStep = Callable[..., None]


class CautiousAdamW(torch.optim.AdamW):
    """torch's fused AdamW with cautious decay for groups with `cautious`; same state format."""

    def __init__(self, groups: list[dict[str, Any]], *, compiled: bool) -> None:
        super().__init__(groups, fused=True)
        self.adamw_step: AdamWStep = adamw_step
        if compiled:
            self.adamw_step = torch.compile(adamw_step, dynamic=False, fullgraph=True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Step all groups; tensors without a gradient are skipped, as in torch."""
        cautious = [(group, tensor, tensor.grad) for group, tensor in self._cautious()]
        for _, tensor, _ in cautious:
            tensor.grad = None
        super().step()
        for group, tensor, gradient in cautious:
            tensor.grad = gradient
            if gradient is not None:
                if tensor not in self.state:
                    self.state[tensor] = initial_state(tensor)
                state = self.state[tensor]
                state["step"] += 1
                self._apply_step(group, tensor, gradient, state)

    @torch.no_grad()
    def warm_up(self) -> None:
        """Compile the step of every cautious tensor on zeros; parameters do not change."""
        for group, tensor in self._cautious():
            copy = torch.zeros_like(tensor, requires_grad=False)
            self._apply_step(group, copy, torch.zeros_like(copy), initial_state(tensor))

    def _cautious(self) -> list[tuple[dict[str, Any], Tensor]]:
        groups = [group for group in self.param_groups if group.get("cautious")]
        return [(group, tensor) for group in groups for tensor in group["params"]]

    def _apply_step(
        self, group: dict[str, Any], tensor: Tensor, gradient: Tensor, state: dict[str, Tensor]
    ) -> None:
        beta1, beta2 = group["betas"]
        self.adamw_step(
            tensor.detach(),
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["step"],
            torch.tensor(group["lr"]),  # a tensor: a new float would recompile
            decay=group["weight_decay"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
        )


def initial_state(tensor: Tensor) -> dict[str, Tensor]:
    """The initial state of torch's AdamW."""
    zeros = {name: torch.zeros_like(tensor) for name in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.zeros((), device=tensor.device), **zeros}


def adamw_step(
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
    """One in-place step on tensors of equal shape; `steps` (0-d) includes this step."""
    p, g = weight.float(), gradient.float()
    steps = steps.double()  # 1 - 0.995 in fp32 would be off by 1e-5
    m, v = first.float().lerp(g, 1 - beta1), second.float().lerp(g * g, 1 - beta2)
    update = m / (1 - beta1**steps) / ((v / (1 - beta2**steps)).sqrt() + eps)
    decayed = torch.where(update * p > 0, update + decay * p, update)
    first.copy_(m)
    second.copy_(v)
    weight.copy_(p - lr * decayed)
