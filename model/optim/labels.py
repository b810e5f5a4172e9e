"""The table from labels to optimizers, asserted exhaustive both ways, and one step over all of
them.

`matrices` go to Muon where it is on; every other label is a parameter group of one AdamW (torch's
own, fused, but for the labels of trick `adamw_cautious_decay`). After the idea of modded-nanogpt's
label table. Over several ranks each one updates its share of every stack and every large table
(model/distributed/ranks.py).
"""

from typing import Any

import torch
from torch import nn

from model.arch.parameter import declaration_of
from model.config import Config
from model.config.derive import Derived, label_settings
from model.config.schedules import lr_scale, muon_decay_scale, muon_momentum
from model.distributed.ranks import ALONE, Ranks
from model.kernels import REFERENCE, Kernels, compute_type
from model.optim.muon import Muon
from model.optim.shard import OptimizerShard
from model.optim.tie import Tie, moments_like, split_step
from model.tricks.adamw_cautious_decay import CautiousAdamW

CLIP_EPS = 1e-6  # torch's, in clip_grad_norm_
TABLES = ("embedding", "head")
"""The labels of trick `tables_every_second_step`: they step every second step, on the sum of both
gradients (AdamW does not see the factor of two), while Muon takes smaller batches. A variant of
modded-nanogpt's (2025-09-30, @classiclarryd), where all parameters of Adam do so, value tables,
gates and scalars too. Off: they step with all others."""


class Optimizers:
    """Muon for the matrices (where on) and AdamW for the rest, stepped together."""

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        derived: Derived,
        kernels: Kernels = REFERENCE,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.derived, self.ranks = config, derived, ranks
        self.settings = label_settings(config, derived.parameters)
        self.parameters = list(model.parameters())
        self.interval_steps = config.optimizer.table_interval_steps
        self._gathering: tuple[str, ...] = ()  # labels whose gradients wait for the next step
        self._tied = False  # in this step
        by_label = group_by_label(model)
        assert by_label.keys() == derived.learning_rates.keys(), (
            f"labels of the model {sorted(by_label)}, of the table {sorted(derived.learning_rates)}"
        )
        self.tie: Tie | None = None
        if (untie := config.schedule.untie) is not None:
            at = split_step(untie.fraction, derived.steps, self.interval_steps)
            self.tie = Tie(by_label["embedding"][0], by_label["head"][0], split_step=at)
        self.muon: Muon | None = None
        if config.optimizer.muon is not None:
            self.muon = Muon(
                by_label.pop("matrices"),
                config.optimizer.muon,
                lr=derived.learning_rates["matrices"],
                decay=derived.weight_decay["matrices"],
                compute=compute_type(config),
                kernels=kernels,
                ranks=ranks,
            )
        self.tensors = by_label  # of AdamW
        self.portions: list[OptimizerShard] = []
        groups = [self._group(label, tensors) for label, tensors in by_label.items()]
        self.adamw = torch.optim.AdamW(groups, fused=True)
        if config.optimizer.adamw_cautious_decay is not None:
            self.adamw = CautiousAdamW(groups, compiled=config.system.compile)

    def step(self, step: int, position: float | None = None) -> float:
        """Updates the parameters for `step` (from 0), its place in the schedules being `position`
        (null: the step); returns the learning rate's share of its peak."""
        steps, schedule = self.derived.steps, self.config.schedule
        position = step if position is None else position
        scale = lr_scale(position, steps, self.derived.warmup_steps, schedule)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * scale
        exchanged = self._exchanged()
        for portion in exchanged:
            portion.reduced()
        self._step_adamw()
        fetching = [portion.gather() for portion in exchanged]
        if self.tie is not None and self.tie.holds(step):
            for exchange in fetching:  # the embedding follows all rows of the head
                exchange.wait()
            self._follow(self.tie, step)
        if self.muon is not None:
            momentum = muon_momentum(position, steps, self.muon.settings, schedule)
            decay_scale = muon_decay_scale(position, steps)
            fetching += self.muon.step(lr_scale=scale, momentum=momentum, decay_scale=decay_scale)
        for exchange in fetching:
            exchange.wait()
        return scale

    def begin(self, step: int) -> None:
        """Before a step's first pass: which gradients it will step on."""
        self._gathering = TABLES if (step + 1) % self.interval_steps else ()
        self._tied = self.tie is not None and self.tie.holds(step)

    def gather(self, step: int) -> None:
        """Before gradients are clipped and stepped on: those of tied tables become one."""
        if self.tie is not None:
            self.tie.gather(step)

    def last_pass(self) -> None:
        """The next backward pass is the step's last: tables are reduced while it goes on. A head
        that is tied waits for its embedding's gradient."""
        for portion in self._exchanged():
            if not (self._tied and portion.label == "head"):
                portion.reduce_when_there()

    def reduce(self) -> None:
        """Begins what the last backward pass has not begun, once it is over."""
        for portion in self._exchanged():
            portion.reduce()
        if self.muon is not None:
            self.muon.reduce()

    @torch.no_grad()
    def clip(self, limit: float) -> None:
        """Scales all gradients so that their norm over all parameters is at most `limit`."""
        if self.ranks.alone:
            nn.utils.clip_grad_norm_(self.parameters, limit)
            return
        stacks = [] if self.muon is None else self.muon.stacks
        for stack in stacks:
            stack.reducing.wait()
        exchanged = self._exchanged()
        for portion in exchanged:
            portion.reduced()
        shared = [stack.gradients for stack in stacks]
        shared += [portion.gradient for portion in exchanged if portion.split]
        whole = [portion.gradient for portion in exchanged if not portion.split]
        squares = nn.utils.get_total_norm(shared).square()
        self.ranks.all_reduce(squares).wait()
        norm = (squares + nn.utils.get_total_norm(whole).square()).sqrt()
        factor = (limit / (norm + CLIP_EPS)).clamp(max=1.0)
        for gradient in [*shared, *whole]:
            gradient.mul_(factor.to(gradient.dtype))

    def warm_up(self) -> None:
        """Compiles the kernels of Muon, by a step of length 0 with gradients of 0, and the step of
        cautious decay."""
        if isinstance(self.adamw, CautiousAdamW):
            self.adamw.warm_up()
        if self.muon is not None:
            for exchange in self.muon.step(lr_scale=0.0, momentum=0.5, decay_scale=0.0):
                exchange.wait()

    def zero_grad(self) -> None:
        """Forgets all gradients but those that wait for the next step."""
        for label, tensors in self.tensors.items():
            for tensor in tensors:
                if label not in self._gathering:
                    tensor.grad = None
        for portion in self.portions:
            if portion.label not in self._gathering:
                portion.zero_grad()
        if self.muon is not None:
            self.muon.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """What the next step needs of the steps before it; no copies."""
        muon = None if self.muon is None else self.muon.state_dict()
        waiting = [tensor.grad for tensor in self._waiting()]
        return {"adamw": self.adamw.state_dict(), "muon": muon, "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a `state_dict` of optimizers of the same model and settings."""
        self.adamw.load_state_dict(state["adamw"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
        self._gathering = TABLES if state["waiting"] else ()
        for tensor, gradient in zip(self._waiting(), state["waiting"], strict=True):
            tensor.grad = gradient.to(tensor)

    def _step_adamw(self) -> None:
        """AdamW passes over a tensor without a gradient, so those that wait are hidden from it."""
        waiting = [(tensor, tensor.grad) for tensor in self._waiting()]
        for tensor, _ in waiting:
            tensor.grad = None
        self.adamw.step()
        for tensor, gradient in waiting:
            tensor.grad = gradient

    def _waiting(self) -> list[nn.Parameter]:
        """The tensors whose gradients wait for the next step, each rank's its own until then."""
        return [tensor for label in self._gathering for tensor in self.tensors.get(label, [])]

    def _exchanged(self) -> list[OptimizerShard]:
        """Of several ranks: what this step steps on, and so has to be reduced."""
        passed_over = {*self._gathering, *(("embedding",) if self._tied else ())}
        return [portion for portion in self.portions if portion.label not in passed_over]

    def _follow(self, tie: Tie, step: int) -> None:
        """A tied embedding takes the head's values; at the last step what AdamW keeps of it too."""
        tie.follow()
        if not tie.holds(step + 1):
            embedding, head = (self._stepped(label) for label in ("embedding", "head"))
            self.adamw.state[embedding] = moments_like(self.adamw.state[head], embedding)

    def _stepped(self, label: str) -> nn.Parameter:
        """What AdamW updates of a label's table."""
        stepped = {group["label"]: group["params"][0] for group in self.adamw.param_groups}
        table: nn.Parameter = stepped[label]
        return table

    def _group(self, label: str, tensors: list[nn.Parameter]) -> dict[str, object]:
        settings = self.settings[label]
        params = tensors
        if not self.ranks.alone:
            portions = [OptimizerShard(tensor, self.ranks, label) for tensor in tensors]
            self.portions += portions
            params = [portion.own for portion in portions]
        return {
            "label": label,
            "params": params,
            "peak_lr": self.derived.learning_rates[label],
            "lr": 0.0,
            "betas": (settings.beta1, settings.beta2),
            "eps": settings.eps,
            "weight_decay": self.derived.weight_decay[label],
            **({"cautious": True} if self._is_cautious(label) else {}),
        }

    def _is_cautious(self, label: str) -> bool:
        cautious = self.config.optimizer.adamw_cautious_decay
        if cautious is None or self.derived.weight_decay[label] == 0:
            return False
        return cautious.labels is None or label in cautious.labels


def group_by_label(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by the label that each was made with."""
    groups: dict[str, list[nn.Parameter]] = {}
    for _, tensor in model.named_parameters():
        groups.setdefault(declaration_of(tensor).label, []).append(tensor)
    return groups
