"""Model, optimizers and counters on one device: one optimizer step at a time.

`training` and `stepper` drive it, and so do benchmarks and tests.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from model.arch.init import initialise
from model.config import Config
from model.config.derive import Derived
from model.config.schedules import multi_token_weights
from model.config.stages import stage_at
from model.distributed.ranks import ALONE, Ranks
from model.gpt import GPT
from model.kernels import choose
from model.optim.labels import Optimizers
from model.optim.reshard import reshard_state
from model.tricks.weight_average import WeightAverage
from model.tricks.window_warmup import apply_long_window


class Diverged(Exception):
    """The training loss is not finite."""


class Interrupted(Exception):
    """The run received a request to stop; `hint` is how to resume it."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


class Trainer:
    def __init__(
        self, config: Config, derived: Derived, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self.config, self.derived, self.device, self.ranks = config, derived, device, ranks
        self.kernels = choose(config, derived.sizes, device)
        with device:
            self.gpt = GPT(config, derived.sizes, self.kernels)
        initialise(self.gpt, config.seed)
        self.optimizers = Optimizers(self.gpt, config, derived, self.kernels, ranks)
        self.average: WeightAverage | None = None
        if config.optimizer.weight_average is not None:
            self.average = WeightAverage(self.gpt, config.optimizer.weight_average, derived.steps)
        self._apply_window(derived.stages[0].long_window_tokens)
        if config.system.compile:
            self.gpt.compile_regions()

    def gradients(self, tokens: Tensor, pieces: int = 1, weights: Tensor | None = None) -> Tensor:
        """Accumulate this rank's part of the gradient of the mean loss over the rows (R, T+1) of
        all ranks; returns the mean over its own rows.

        Rows are cut into `pieces`; `weights` are those of several predicted tokens.
        """
        rows = self.derived.device_batch_rows
        accumulation = tokens.size(0) // rows
        total = torch.zeros((), device=self.device)
        for number, micro in enumerate(tokens.split(rows), start=1):
            inputs, targets = micro[:, :-1], micro[:, 1:].contiguous()
            if pieces > 1:
                length = inputs.size(1) // pieces
                inputs, targets = inputs.reshape(-1, length), targets.view(-1, length)
            loss = self.gpt(inputs, targets, weights)
            if number == accumulation:
                self.optimizers.begin_last_pass()
            (loss / (accumulation * self.ranks.count)).backward()
            total += loss.detach() / accumulation
        return total

    def step(
        self,
        index: int,
        tokens: Tensor,
        position: float | None = None,
        worked: Callable[[], None] | None = None,
    ) -> tuple[Tensor, float]:
        """Take one optimizer step (from 0); returns the mean loss over this rank's rows, and the
        learning rate's share of its peak.

        `position` is its position in the schedules where that is not the step. `worked` is called
        once all collectives of gradients have started, before the first wait for one.
        """
        stage = stage_at(self.derived.stages, index)
        weights = self._weights(index) if stage.predicted > 1 else None
        self._apply_window(stage.long_window_tokens)
        self.optimizers.begin(index)
        if self.gpt.fp8 is not None:
            self.gpt.fp8.begin(index)
        loss = self.gradients(tokens, stage.pieces, weights)
        self.optimizers.merge_tied_gradients(index)
        self.optimizers.reduce()
        if worked is not None:
            worked()
        if self.config.optimizer.clip is not None:
            self.optimizers.clip(self.config.optimizer.clip)
        scale = self.optimizers.step(index, position)
        if self.average is not None:
            self.average.update(index, index if position is None else position)
        self.optimizers.zero_grad()
        if self.gpt.fp8 is not None:
            self.gpt.fp8.update_scales(self.ranks)
        return loss, scale

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that evaluations see."""
        return nullcontext() if self.average is None else self.average.averaged_weights()

    def finish(self) -> None:
        """After the last step: extend windows that were warmed up to the whole context."""
        self._apply_window(self.derived.sizes.context)

    def state_dict(self) -> dict[str, Any]:
        """The state of the next step except its number and its rows, without copies; only rank 0's
        has the weights and averages, which are equal on all ranks."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        weights: dict[str, Any] = {"model": self.gpt.state_dict()}
        if self.average is not None:
            weights["average"] = self.average.state_dict()
        return {
            **({} if self.ranks.rank else weights),
            "optimizers": self.optimizers.state_dict(),
            "generators": generators,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy in the state of another trainer of this configuration, from any device."""
        self.gpt.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizers.load_state_dict(state["optimizers"])
        torch.set_rng_state(state["generators"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["generators"]:
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.device)

    def load_state_of_ranks(self, states: Sequence[dict[str, Any]]) -> None:
        """Copy in the states that all ranks of another number of ranks saved, by rank."""
        optimizers = reshard_state([state["optimizers"] for state in states], self.optimizers)
        generators = states[min(self.ranks.rank, len(states) - 1)]["generators"]
        self.load_state_dict({**states[0], "optimizers": optimizers, "generators": generators})

    def warm_up(self) -> None:
        """Compile the forward and backward pass of every stage and of evaluations, and the
        optimizer; parameters and states do not change."""
        rows, context = self.derived.device_batch_rows, self.derived.sizes.context
        tokens = torch.zeros(rows, context + 1, dtype=torch.int64, device=self.device)
        staged = {(s.long_window_tokens, s.pieces, s.predicted) for s in self.derived.stages}
        evaluated = {(window, 1, 1) for window, _, _ in staged}  # whole rows, the next token
        for window, pieces, predicted in sorted(staged | evaluated | {(context, 1, 1)}):
            weights = torch.ones(predicted, device=self.device) if predicted > 1 else None
            self._apply_window(window)
            for step in (0,) if self.gpt.fp8 is None else self.gpt.fp8.first_steps:
                if self.gpt.fp8 is not None:
                    self.gpt.fp8.begin(step)
                self.gradients(tokens, pieces, weights)
            if self.gpt.fp8 is not None:  # evaluations have other products, so other graphs
                self.gpt.token_losses(tokens[:, :-1], tokens[:, 1:].contiguous())
                self.gpt.fp8.reset_maxima()
        self._apply_window(self.derived.stages[0].long_window_tokens)
        self.optimizers.zero_grad()
        self.optimizers.warm_up()

    def _apply_window(self, long_window_tokens: int) -> None:
        if self.config.schedule.window_warmup is not None:
            apply_long_window(self.gpt, self.config, long_window_tokens)

    def _weights(self, index: int) -> Tensor:
        settings = self.config.schedule.multi_token
        weights = torch.tensor(multi_token_weights(index, self.derived.steps, settings))
        if self.device.type != "cuda":
            return weights
        return weights.pin_memory().to(self.device, non_blocking=True)
