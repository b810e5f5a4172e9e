"""The table from labels to optimizers, exhaustive in both directions, and the optimizer step.

With Muon on, `matrices` use Muon; every other label is a parameter group of one AdamW (torch's
fused AdamW, except for labels of trick `adamw_cautious_decay`). The idea is from modded-nanogpt's
label table. With several ranks, each rank updates its shard of every stack and every large table
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
from model.optim.tie import Tie, copy_moments, split_step
from model.tricks.adamw_cautious_decay import CautiousAdamW

CLIP_EPS = 1e-6  # torch's, in clip_grad_norm_
TABLES = ("embedding", "head")
"""The labels of trick `tables_every_second_step`: they are updated every second step, on the sum of
both gradients (AdamW is invariant to the factor of two), while Muon uses smaller batches. In
modded-nanogpt (2025-09-30, @classiclarryd) this applies to all parameters of Adam, including value
tables, gates and scalars. Off: they are updated in every step."""


class Optimizers:
    """Muon for the matrices (if on) and AdamW for the rest, stepped together."""

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
        # labels whose gradients accumulate until the next step
        self._accumulating_labels: tuple[str, ...] = ()
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
        self.shards: list[OptimizerShard] = []
        groups = [self._group(label, tensors) for label, tensors in by_label.items()]
        self.adamw = torch.optim.AdamW(groups, fused=True)
        if config.optimizer.adamw_cautious_decay is not None:
            self.adamw = CautiousAdamW(groups, compiled=config.system.compile)

    def step(self, step: int, position: float | None = None) -> float:
        """Update the parameters for `step` (from 0); returns the learning rate's share of its peak.

        `position` is the position in the schedules; null means `step`."""
        steps, schedule = self.derived.steps, self.config.schedule
        position = step if position is None else position
        scale = lr_scale(position, steps, self.derived.warmup_steps, schedule)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * scale
        stepped = self._stepped_shards()
        for shard in stepped:
            shard.wait_reduced()
        self._step_adamw()
        gathers = [shard.gather() for shard in stepped]
        if self.tie is not None and self.tie.is_tied(step):
            for exchange in gathers:  # the tied embedding needs all rows of the head
                exchange.wait()
            self._update_tied_embedding(self.tie, step)
        if self.muon is not None:
            momentum = muon_momentum(position, steps, self.muon.settings, schedule)
            decay_scale = muon_decay_scale(position, steps)
            gathers += self.muon.step(lr_scale=scale, momentum=momentum, decay_scale=decay_scale)
        for exchange in gathers:
            exchange.wait()
        return scale

    def begin(self, step: int) -> None:
        """Prepare a step before its first pass: select the labels to update."""
        self._accumulating_labels = TABLES if (step + 1) % self.interval_steps else ()
        self._tied = self.tie is not None and self.tie.is_tied(step)

    def merge_tied_gradients(self, step: int) -> None:
        """Merge the gradients of tied tables; call before `clip` and `step`."""
        if self.tie is not None:
            self.tie.accumulate_in_head(step)

    def begin_last_pass(self) -> None:
        """Overlap the reduction of tables with the next backward pass, the last of the step.

        A tied head is excluded, because it needs the embedding's gradient first."""
        for shard in self._stepped_shards():
            if not (self._tied and shard.label == "head"):
                shard.reduce_when_ready()

    def reduce(self) -> None:
        """Start all remaining reductions after the last backward pass."""
        for shard in self._stepped_shards():
            shard.reduce()
        if self.muon is not None:
            self.muon.reduce()

    @torch.no_grad()
    def clip(self, limit: float) -> None:
        """Scale all gradients so that their global norm is at most `limit`."""
        if self.ranks.alone:
            nn.utils.clip_grad_norm_(self.parameters, limit)
            return
        stacks = [] if self.muon is None else self.muon.stacks
        for stack in stacks:
            stack.reducing.wait()
        stepped = self._stepped_shards()
        for shard in stepped:
            shard.wait_reduced()
        shared = [stack.gradients for stack in stacks]
        shared += [shard.gradient for shard in stepped if shard.split]
        whole = [shard.gradient for shard in stepped if not shard.split]
        squares = nn.utils.get_total_norm(shared).square()
        self.ranks.all_reduce(squares).wait()
        norm = (squares + nn.utils.get_total_norm(whole).square()).sqrt()
        factor = (limit / (norm + CLIP_EPS)).clamp(max=1.0)
        for gradient in [*shared, *whole]:
            gradient.mul_(factor.to(gradient.dtype))

    def warm_up(self) -> None:
        """Compile Muon's kernels with a step of learning rate 0 on zero gradients, and the step of
        cautious decay."""
        if isinstance(self.adamw, CautiousAdamW):
            self.adamw.warm_up()
        if self.muon is not None:
            for exchange in self.muon.step(lr_scale=0.0, momentum=0.5, decay_scale=0.0):
                exchange.wait()

    def zero_grad(self) -> None:
        """Clear all gradients except those that accumulate until the next step."""
        for label, tensors in self.tensors.items():
            for tensor in tensors:
                if label not in self._accumulating_labels:
                    tensor.grad = None
        for shard in self.shards:
            if shard.label not in self._accumulating_labels:
                shard.zero_grad()
        if self.muon is not None:
            self.muon.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizers and accumulating gradients, not copied."""
        muon = None if self.muon is None else self.muon.state_dict()
        waiting = [tensor.grad for tensor in self._accumulating_tensors()]
        return {"adamw": self.adamw.state_dict(), "muon": muon, "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a `state_dict` of optimizers of the same model and settings."""
        self.adamw.load_state_dict(state["adamw"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
        self._accumulating_labels = TABLES if state["waiting"] else ()
        for tensor, gradient in zip(self._accumulating_tensors(), state["waiting"], strict=True):
            tensor.grad = gradient.to(tensor)

    def _step_adamw(self) -> None:
        """Step AdamW without accumulating gradients; AdamW skips tensors without a gradient."""
        waiting = [(tensor, tensor.grad) for tensor in self._accumulating_tensors()]
        for tensor, _ in waiting:
            tensor.grad = None
        self.adamw.step()
        for tensor, gradient in waiting:
            tensor.grad = gradient

    def _accumulating_tensors(self) -> list[nn.Parameter]:
        """Tensors whose gradients accumulate until the next step, locally on each rank."""
        return [
            tensor for label in self._accumulating_labels for tensor in self.tensors.get(label, [])
        ]

    def _stepped_shards(self) -> list[OptimizerShard]:
        """Shards to update in this step, whose gradients must be reduced; empty on one rank."""
        excluded = {*self._accumulating_labels, *(("embedding",) if self._tied else ())}
        return [shard for shard in self.shards if shard.label not in excluded]

    def _update_tied_embedding(self, tie: Tie, step: int) -> None:
        """Copy the head to the tied embedding; at the last tied step also AdamW's moments."""
        tie.copy_from_head()
        if not tie.is_tied(step + 1):
            embedding, head = (self._adamw_tensor(label) for label in ("embedding", "head"))
            self.adamw.state[embedding] = copy_moments(self.adamw.state[head], embedding)

    def _adamw_tensor(self, label: str) -> nn.Parameter:
        """The tensor of a label's table that AdamW updates."""
        stepped = {group["label"]: group["params"][0] for group in self.adamw.param_groups}
        table: nn.Parameter = stepped[label]
        return table

    def _group(self, label: str, tensors: list[nn.Parameter]) -> dict[str, object]:
        settings = self.settings[label]
        params = tensors
        if not self.ranks.alone:
            shards = [OptimizerShard(tensor, self.ranks, label) for tensor in tensors]
            self.shards += shards
            params = [shard.local for shard in shards]
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
    """Parameters by label."""
    groups: dict[str, list[nn.Parameter]] = {}
    for _, tensor in model.named_parameters():
        groups.setdefault(declaration_of(tensor).label, []).append(tensor)
    return groups
