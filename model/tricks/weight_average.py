"""Trick `weight_average`: evaluations use a running average of the weights; training does not.

    a = decay^n a + (1 - decay^n) p    after every n-th step; p, a any shape, a in fp32
    evaluated:  (1 - blend) p + blend a, rounded to the type of p

for every parameter. The average starts as a copy of the weights, at initialization or after the
share `start` of all steps; until then evaluations use the weights. This covers validation, CORE,
and the checkpoint that `val_eval` and `core_eval` read. Training continues with p, and a checkpoint
holds both. Why it should help: late weights oscillate around their trend with an amplitude set by
the learning rate. An average over about 1 / (1 - decay) steps removes the oscillation but lags
behind; `blend` balances the two.

Source: Polyak and Juditsky 1992; for the tail of a run modded-nanogpt's track 3 (optimizers), PR
325 (2026-06-12, @jn2clark): decay 1 - 1/150 from step 2,000 of 2,720, blend 0.6, all but the token
table; then PR 328 (2026-06-19, @ypwang61). The catalogue uses those settings; the bare defaults are
a plain average over the whole run. Differences from the record: the token table is averaged too,
and evaluations before the last also use the average. In track 1 it is proposed for head and table
alone (2026-07-27, @deepmatmul), not merged. nanochat found no gain (log of 2026-03-24).

Off: evaluations use the weights. An evaluation copies the averaged values into the model's tensors
and restores the weights afterwards, so that addresses stay the same and nothing is recompiled; this
needs memory for one more copy of the weights. Every rank has all weights after a step and averages
them without communication. Interactions: decay counts steps, so a short run needs a lower decay; a
learning rate that falls to zero also averages, and leaves less to gain.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from model.config import WeightAverage as Settings

EPS_STEPS = 1e-6  # rounding error of a share of the steps


class WeightAverage:
    """Averages of a model's parameters over a run of `steps`."""

    def __init__(self, model: nn.Module, settings: Settings, steps: int) -> None:
        self.settings = settings
        self.first_step = settings.start * steps - EPS_STEPS
        self.weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
        # allocated at the start, so that a run does not run out of memory midway
        self.averages = {name: weight.float().clone() for name, weight in self.weights.items()}
        self.started = settings.start == 0

    @torch.no_grad()
    def update(self, step: int, position: float) -> None:
        """Update the averages after `step` (from 0); `position` is in the schedules."""
        settings = self.settings
        if not self.started:
            if position + 1 >= self.first_step:
                self.started = True
                self._set(self.weights)
        elif (step + 1) % settings.every_steps == 0:
            weight_of_new = 1 - settings.decay**settings.every_steps
            for name, average in self.averages.items():  # one at a time: a table in fp32 is large
                average.lerp_(self.weights[name].float(), weight_of_new)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Context in which the model holds the averaged weights; restores the originals exactly."""
        if not self.started:
            yield
            return
        originals = {name: weight.clone() for name, weight in self.weights.items()}
        try:
            for name, weight in self.weights.items():
                weight.copy_(blend_weights(weight, self.averages[name], self.settings))
            yield
        finally:
            for name, weight in self.weights.items():
                weight.copy_(originals[name])

    def state_dict(self) -> dict[str, Any]:
        """Averages by parameter name, not copied; None before the average starts."""
        return {"averages": self.averages if self.started else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a `state_dict`."""
        self.started = state["averages"] is not None
        if self.started:
            self._set(state["averages"])

    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, average in self.averages.items():
            average.copy_(values[name])


def blend_weights(weight: Tensor, average: Tensor, settings: Settings) -> Tensor:
    """(1 - blend) * weight + blend * average, in fp32."""
    return weight.float().lerp(average, settings.blend)


def load_averaged_weights(model: nn.Module, state: Mapping[str, Any], settings: Settings) -> None:
    """Replace a model's checkpoint weights with the averaged weights; `state` is the checkpoint's
    `state_dict` of averages."""
    averages = state["averages"]
    if averages is None:
        return
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(blend_weights(parameter, averages[name].to(parameter.device), settings))
