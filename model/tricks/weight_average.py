"""Trick `weight_average`: evaluations see a running average of the weights, training does not.

    a = decay^n a + (1 - decay^n) p    behind every n-th step; p, a any shape, a in fp32
    evaluated:  (1 - blend) p + blend a, rounded to the type of p

for every parameter. The average begins as the weights themselves, at initialisation or once a share
`start` of all steps is over; until then evaluations see the weights. So do CORE, the checkpoint
that `val_eval` and `core_eval` read, and every evaluation on the way; training goes on with p, and
a checkpoint holds both. Why it should help: late weights swing around the place that they move
towards, by an amount that follows the learning rate; an average over about 1 / (1 - decay) steps
takes the swing out, at the price of lagging behind, which `blend` weighs against it.

Source: Polyak and Juditsky 1992; for the tail of a run modded-nanogpt's track 3 (optimizers), PR
325 (2026-06-12, @jn2clark): decay 1 - 1/150 from step 2,000 of 2,720, blend 0.6, all but the token
table; then PR 328 (2026-06-19, @ypwang61). Those are the settings of the catalogue; the bare
defaults are a plain average over the whole run. Variants of the record: the token table is averaged
too, and evaluations before the last see the average as well. In track 1 it is proposed for head and
table alone (2026-07-27, @deepmatmul), not merged. nanochat found no gain (log of 2026-03-24).

Off: evaluations see the weights. An evaluation copies values into the model's own tensors and the
kept weights back behind it, so that addresses stay and nothing is compiled anew; that takes room
for the weights once more. Every rank has all weights after a step and averages them alike, with
nothing to exchange. Interactions: decay counts steps, so a short run wants a lower one; a learning
rate that falls to zero averages already, and leaves less to gain.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from model.config import WeightAverage as Settings

EPS_STEPS = 1e-6  # a share of the steps may miss a whole number by a rounding


class WeightAverage:
    """The averages of a model's parameters in a run of `steps`."""

    def __init__(self, model: nn.Module, settings: Settings, steps: int) -> None:
        self.settings = settings
        self.first_step = settings.start * steps - EPS_STEPS
        self.weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
        # there from the start, so that memory does not run out in the middle of a run
        self.averages = {name: weight.float().clone() for name, weight in self.weights.items()}
        self.begun = settings.start == 0

    @torch.no_grad()
    def update(self, step: int, position: float) -> None:
        """After a step (from 0) at its place in the schedules."""
        settings = self.settings
        if not self.begun:
            if position + 1 >= self.first_step:
                self.begun = True
                self._set(self.weights)
        elif (step + 1) % settings.every_steps == 0:
            share = 1 - settings.decay**settings.every_steps
            for name, average in self.averages.items():  # one by one: a table in fp32 is large
                average.lerp_(self.weights[name].float(), share)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Inside, the model has the weights to evaluate; behind it its own, bit by bit."""
        if not self.begun:
            yield
            return
        kept = {name: weight.clone() for name, weight in self.weights.items()}
        try:
            for name, weight in self.weights.items():
                weight.copy_(blended(weight, self.averages[name], self.settings))
            yield
        finally:
            for name, weight in self.weights.items():
                weight.copy_(kept[name])

    def state_dict(self) -> dict[str, Any]:
        """The averages by the names of their parameters, no copies; null before they begin."""
        return {"averages": self.averages if self.begun else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies a `state_dict` in."""
        self.begun = state["averages"] is not None
        if self.begun:
            self._set(state["averages"])

    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, average in self.averages.items():
            average.copy_(values[name])


def blended(weight: Tensor, average: Tensor, settings: Settings) -> Tensor:
    """What is evaluated, in fp32."""
    return weight.float().lerp(average, settings.blend)


def put_in_place(model: nn.Module, state: Mapping[str, Any], settings: Settings) -> None:
    """Gives a model that has a checkpoint's weights those that its evaluations see; `state` is the
    checkpoint's `state_dict` of averages."""
    averages = state["averages"]
    if averages is None:
        return
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(blended(parameter, averages[name].to(parameter.device), settings))
