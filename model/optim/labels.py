"""The table from labels to optimizers, asserted exhaustive both ways, and one step over all of
them.

`matrices` go to Muon where it is on; every other label is a parameter group of one AdamW (torch's
own, fused). After the idea of modded-nanogpt's label table.
"""

from typing import Any

import torch
from torch import nn

from model.config import Config
from model.derive import Derived
from model.kernels import REFERENCE, Kernels
from model.optim.muon import Muon
from model.parameter import compute_type, label_of
from model.schedules import lr_scale, muon_decay_scale, muon_momentum


class Optimizers:
    """Muon for the matrices (where on) and AdamW for the rest, stepped together."""

    def __init__(
        self, model: nn.Module, config: Config, derived: Derived, kernels: Kernels = REFERENCE
    ) -> None:
        self.config, self.derived = config, derived
        by_label = group_by_label(model)
        assert by_label.keys() == derived.learning_rates.keys(), (
            f"labels of the model {sorted(by_label)}, of the table {sorted(derived.learning_rates)}"
        )
        self.muon: Muon | None = None
        if config.optimizer.muon is not None:
            self.muon = Muon(
                by_label.pop("matrices"),
                config.optimizer.muon,
                lr=derived.learning_rates["matrices"],
                decay=derived.weight_decay["matrices"],
                compute=compute_type(config),
                kernels=kernels,
            )
        groups = [self._group(label, tensors) for label, tensors in by_label.items()]
        self.adamw = torch.optim.AdamW(groups, fused=True)

    def step(self, step: int) -> float:
        """Updates all parameters for `step` (from 0); returns the learning rate's share of its
        peak."""
        steps, schedule = self.derived.steps, self.config.schedule
        scale = lr_scale(step, steps, self.derived.warmup_steps, schedule)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * scale
        self.adamw.step()
        if self.muon is not None:
            momentum = muon_momentum(step, steps, self.muon.settings, schedule)
            decay_scale = muon_decay_scale(step, steps)
            self.muon.step(lr_scale=scale, momentum=momentum, decay_scale=decay_scale)
        return scale

    def warm_up(self) -> None:
        """Compiles the kernels of Muon, by a step of length 0 with gradients of 0."""
        if self.muon is not None:
            self.muon.step(lr_scale=0.0, momentum=0.5, decay_scale=0.0)

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        self.adamw.zero_grad(set_to_none=True)
        if self.muon is not None:
            self.muon.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """What the next step needs of the steps before it; no copies."""
        muon = None if self.muon is None else self.muon.state_dict()
        return {"adamw": self.adamw.state_dict(), "muon": muon}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a `state_dict` of optimizers of the same model and settings."""
        self.adamw.load_state_dict(state["adamw"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])

    def _group(self, label: str, tensors: list[nn.Parameter]) -> dict[str, object]:
        settings = getattr(self.config.optimizer, label)
        return {
            "label": label,
            "params": tensors,
            "peak_lr": self.derived.learning_rates[label],
            "lr": 0.0,
            "betas": (settings.beta1, settings.beta2),
            "eps": settings.eps,
            "weight_decay": self.derived.weight_decay[label],
        }


def group_by_label(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by the label that each was made with."""
    groups: dict[str, list[nn.Parameter]] = {}
    for _, tensor in model.named_parameters():
        groups.setdefault(label_of(tensor), []).append(tensor)
    return groups
