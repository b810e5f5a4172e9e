"""A complete trainer that stands ready and steps only when told: what `model.pace` drives.

Speed is compared between processes that live at the same time and take turns, so that a GPU that
warms up or slows down does so for both. A resident trainer is built and compiled as a run's is, and
settles until three steps in a row compiled nothing. From then on:

- It can be asked for any number of steps. A schedule ends and may pass through stages of different
  cost, so it is held: every step is step `at_step` of the schedule (0 by default, where a warm-up
  keeps the learning rate small), and a turn never mixes stages. Where tables step at intervals, the
  steps of its interval come in turn.
- Data never ends either: the first 64 batches of the plan come again and again.
- A turn times steps and nothing else. It starts and ends with an idle device. In between, as in
  training, the host is at most one step ahead of the GPU. The loader gathers on between turns, so
  that the first batch of a turn is ready.
- Between turns it holds its memory, and neither computes nor waits actively.

Batches are those of the loader, or with `synthetic` one random batch over and over, which needs no
data. `same` repeats the loader's last batch: what is gained by it is what the loader costs.

Over several ranks all step together, as in training, with its roll call at the end of each step.
They step equally long, because the fast ones wait: a slow one shows in `compute_s_by_rank`, the
time from a step's start to the first wait for another rank. One rank alone waits for nobody.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from model.config import Config
from model.config.derive import Derived, matmul_parameters, stage_flops_per_token
from model.config.stages import stage_at
from model.data.loader import Batch, Loader
from model.data.prepare import prepare
from model.data.rows import RepeatedRows
from model.data.settings import DataSettings
from model.distributed.control_group import ControlGroup
from model.distributed.ranks import join_group
from model.distributed.step_status import StepStatus, StepStatusReduction
from model.errors import ConfigError, ConfigErrors, MachineError
from model.kernels import kernel_plan
from model.runtime import precompile, preflight
from model.runtime.compilation import Compilation
from model.runtime.environment import environment_json, of_all_ranks, peak_flops, peak_memory_bytes
from model.runtime.process import Process
from model.system.sm_clock import Samples, SmClock
from model.system.throttle import reasons_in
from model.system.timing import Clock, Lap, Stretch
from model.trainer import Diverged, Interrupted, Trainer
from model.tricks.document_mask import require_bos

QUIET_STEPS = 3  # steps without a compilation before the trainer calls itself ready
MOST_SETTLING_STEPS = 50  # guards that change at every step would compile for ever
PLANNED_BATCHES = 64

Source = Literal["loader", "same"]
Value = TypeVar("Value")


class Batches(Protocol):
    """Where a turn's batches come from."""

    def next(self) -> Batch:
        """The next batch, on the device."""


class SameBatch:
    """One batch over and over."""

    def __init__(self, tokens: Tensor) -> None:
        self._batch = Batch(tokens=tokens, waited_s=0.0)

    def next(self) -> Batch:
        return self._batch


@dataclass
class _Steps:
    """Steps of a turn, behind one another; their times are read when the device is idle."""

    laps: list[Lap] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    own: list[Stretch] = field(default_factory=list)
    """Of several ranks: up to the first wait for another one."""
    call: StepStatusReduction | None = None
    """Of the last step."""

    def compute_s(self) -> float:
        """This rank's own part of a step, as a mean."""
        own = self.own or self.laps  # one rank alone waits for nobody
        return math.fsum(part.seconds() for part in own) / len(self.laps)


class Stepper:
    """One trainer and its batches; `make_ready` first, then turns, and `close` at the end."""

    def __init__(self, process: Process, *, at_step: int = 0, synthetic: bool = False) -> None:
        """Raises ConfigErrors when the schedule has no step `at_step`."""
        _require_step(at_step, process.derived)
        _require_rows(process.config)
        self.config, self.derived = process.config, process.derived
        self.run, self.stop, self.ranks = process.run, process.stop, process.ranks
        self.at_step, self.synthetic = at_step, synthetic
        self._taken = 0
        self.trainer: Trainer
        self.device: torch.device
        self.council: ControlGroup
        self._loader: Loader | None = None
        self._last: Batch
        self._sm_clock: SmClock

    def make_ready(self, started: float) -> dict[str, Any]:
        """Builds, compiles and settles; what there is to know about the trainer.

        Raises Interrupted, or whatever building a trainer raises.
        """
        self._phase_since("startup", started)
        self.device = preflight.device_of(self.config, self.ranks)
        join_group(self.ranks, self.device)
        self.council = ControlGroup(self.ranks)
        # first of all: packages ask where to keep kernels when they are imported
        self.compilation = Compilation.start(self.config, self.device)
        self._timed("preflight", self._check)
        rows = None if self.synthetic else self._timed("data", self._open_rows)
        self._sm_clock = SmClock(self.device)
        given = (self.config, self.derived, self.device, self.ranks)
        self.trainer = self._timed("build", lambda: Trainer(*given))
        compile_s = 0.0
        if self.config.system.compile:
            began = time.time()
            self.compilation.warm_up(self.trainer.warm_up)
            compile_s = self._phase_since("compile", began)
        self.run.metrics["compile_s"] = compile_s
        if rows is None:
            tokens = synthetic_tokens(self.config, self.derived, self.device, self.at_step)
            self._last = SameBatch(tokens[self.ranks.share(len(tokens))]).next()
        else:
            place = {"rank": self.ranks.rank, "ranks": self.ranks.count}
            batch_rows, device = self._batch_rows, self.device
            self._loader = Loader(rows, batch_rows=batch_rows, device=device, **place)
        step_s = self._settle()
        environment = self._timed("environment", self._environment)
        self.run.write("environment.json", environment)
        self.run.metrics["startup_s"] = time.time() - started
        return self._ready(environment, step_s)

    def turn(self, steps: int, source: Source = "loader") -> dict[str, Any]:
        """Takes `steps` steps now; their times and what went on meanwhile.

        Raises Interrupted when told to leave, and Diverged when the last loss is not finite.
        """
        graphs = compiled_graphs()
        with self._sm_clock.sampling() as samples:
            self._synchronise()
            taken = self._take(steps, self._batches(source))
            self._synchronise()
        loss = self._heard(taken.call)
        if not math.isfinite(loss):
            raise Diverged(f"training loss {loss} after {steps} steps of a turn")
        by_rank = self._by_rank(taken, samples, compiled_graphs() - graphs)
        return {
            "steps": steps,
            "batches": "same" if self.synthetic else source,
            "step_s": [round(lap.seconds(), 7) for lap in taken.laps],
            "loader_wait_s": [round(wait, 7) for wait in taken.waits],
            "compute_s_by_rank": by_rank["compute_s"],
            "sm_clock_mhz": samples.median_mhz,
            "sm_clock_mhz_by_rank": by_rank["sm_clock_mhz"],
            "throttled_by_rank": by_rank["throttled"],
            "recompiled": max(by_rank["recompiled"]),
            "loss": loss,
            "peak_memory_bytes": max(by_rank["peak_memory_bytes"]),
        }

    def _by_rank(self, taken: "_Steps", samples: Samples, recompiled: int) -> dict[str, list[Any]]:
        """What went on in a turn, of each rank."""
        own = {
            "compute_s": round(taken.compute_s(), 7),
            "sm_clock_mhz": samples.median_mhz,
            "throttled": None if samples.reasons is None else reasons_in(samples.reasons),
            "recompiled": recompiled,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }
        told = self.council.all_gather_object(own)
        return {name: [each[name] for each in told] for name in own}

    def _take(self, steps: int, batches: Batches) -> "_Steps":
        taken = _Steps()
        clock = Clock(self.device)
        for _ in range(steps):
            self._leave_if_told(in_a_turn=True)
            self._last = batches.next()
            own = None if self.ranks.alone else clock.stretch()
            worked = None if own is None else own.end
            loss, _ = self.trainer.step(self._next_index(), self._last.tokens, worked=worked)
            before, taken.call = (
                taken.call,
                StepStatusReduction(self.ranks, loss, self._own_status()),
            )
            taken.laps.append(clock.lap())
            taken.waits.append(self._last.waited_s)
            if own is not None:
                taken.own.append(own)
            if before is not None:  # waits for the step before: one step ahead, as in training
                taken.laps[-2].seconds()
                if not self.ranks.alone:
                    self._heard(before)
        return taken

    def _own_status(self) -> StepStatus:
        return StepStatus(leaving=self.stop.reason is not None)

    def _heard(self, call: StepStatusReduction | None) -> float:
        """A step's loss over all rows. Raises Interrupted, at the same step for all ranks."""
        assert call is not None, "a turn without a step"
        loss, words = call.result()
        if words.leaving and not self.ranks.alone:
            raise Interrupted(self.stop.request("another rank was told to leave"))
        return loss

    def _next_index(self) -> int:
        """Step `at_step`; where tables step at intervals, the steps of its interval in turn."""
        interval = self.config.optimizer.table_interval_steps
        self._taken += 1
        return self.at_step - self.at_step % interval + (self._taken - 1) % interval

    def record(self, turn: dict[str, Any]) -> None:
        """Writes a turn into the run's events and metrics."""
        self.run.event("turn", **turn)
        metrics = self.run.metrics
        self.run.steps += turn["steps"]
        self.run.tokens += turn["steps"] * self._batch_rows * self.derived.sizes.context
        train_time_s = (metrics["train_time_s"] or 0.0) + sum(turn["step_s"])
        metrics["train_time_s"] = train_time_s
        metrics["loader_wait_s"] = (metrics["loader_wait_s"] or 0.0) + sum(turn["loader_wait_s"])
        metrics["tokens_per_s"] = self.run.tokens / train_time_s
        metrics["train_loss"] = turn["loss"]
        metrics["peak_memory_bytes"] = turn["peak_memory_bytes"]

    def close(self) -> None:
        """Ends the loader's thread."""
        if self._loader is not None:
            self._loader.close()

    @property
    def _batch_rows(self) -> int:
        return len(self.derived.rows(self.at_step))

    def _check(self) -> None:
        # others take turns with it on the same GPU: that is what it is for
        system = replace(self.config.system, share_gpu=True)
        config = replace(self.config, system=system)
        kernels, _ = preflight.check(config, self.derived, self.device, self.ranks)
        precompile.start(config, self.derived.sizes, kernels, self.compilation.cache)

    def _open_rows(self) -> RepeatedRows:
        settings = DataSettings.from_config(self.config)
        prepared = prepare(settings, lambda text: print(text, file=sys.stderr, flush=True))
        require_bos(self.config, prepared.bos_id)
        rows = PLANNED_BATCHES * self._batch_rows
        return RepeatedRows(prepared.rows("train", rows), rows)

    def _batches(self, source: Source) -> Batches:
        if source == "loader" and self._loader is not None:
            return self._loader
        return SameBatch(self._last.tokens)

    def _settle(self) -> float:
        """Steps until QUIET_STEPS in a row compiled nothing; the median time of those."""
        began = time.time()
        quiet: list[float] = []
        for number in range(1, MOST_SETTLING_STEPS + 1):
            turn = self.turn(1)
            if number == 1:
                self._phase_since("first_step", began)
            quiet = [] if turn["recompiled"] else quiet + turn["step_s"]
            if len(quiet) == QUIET_STEPS:
                self._phase_since("settle", began)
                return statistics.median(quiet)
        raise MachineError(
            path="system.compile",
            expected=f"{QUIET_STEPS} steps in a row that compile nothing",
            got=f"none in {MOST_SETTLING_STEPS} steps",
            hint="See the log with TORCH_LOGS=recompiles, or set system.compile: false.",
        )

    def _environment(self) -> dict[str, Any]:
        environment = environment_json(
            self.device,
            precision=self.config.system.precision,
            kernel_plan=kernel_plan(self.config, self.trainer.kernels),
            calibration_s=0.0,  # whoever takes turns with this trainer starts at the same time
        )
        environment = of_all_ranks(environment, self.ranks)
        return {**environment, "compile_cache": self.compilation.as_json()}

    def _ready(self, environment: dict[str, Any], step_s: float) -> dict[str, Any]:
        gpus, metrics = environment["gpus"], self.run.metrics
        peaks = self.council.all_gather_object(peak_memory_bytes(self.device))
        return {
            "ranks": self.ranks.count,
            "startup_s": metrics["startup_s"],
            "compile_s": metrics["compile_s"],
            "step_s": step_s,
            "graphs": compiled_graphs(),
            "peak_memory_bytes": max(peaks),
            "peak_memory_bytes_by_rank": peaks,
            "reserved_memory_bytes": reserved_memory_bytes(self.device),
            "device_memory_bytes": device_memory_bytes(self.device),
            "batch_tokens": self._batch_rows * self.derived.sizes.context,
            "flops_per_token": stage_flops_per_token(
                self.config,
                matmul_parameters(self.config, self.derived.sizes),
                self.derived.sizes,
                stage_at(self.derived.stages, self.at_step),
            ),
            "peak_flops": peak_flops(gpus[0]["name"]) if gpus else None,
            "device": gpus[0]["name"] if gpus else environment["cpu"]["name"],
            "environment_id": environment["environment_id"],
            "attention_backend": environment["attention_backend"],
            "kernel_plan": environment["kernel_plan"],
            "sm_clock": {"source": self._sm_clock.source, "missing": self._sm_clock.missing},
            "at_step": self.at_step,
            "synthetic": self.synthetic,
        }

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _leave_if_told(self, *, in_a_turn: bool = False) -> None:
        """Raises Interrupted; in a turn over several ranks their roll call does."""
        if self.stop.reason is not None and (self.ranks.alone or not in_a_turn):
            raise Interrupted(self.stop.reason)

    def _timed(self, name: str, call: Callable[[], Value]) -> Value:
        began = time.time()
        value = call()
        self._phase_since(name, began)
        return value

    def _phase_since(self, name: str, began: float) -> float:
        seconds = time.time() - began
        self.run.phase(name, seconds)
        self._leave_if_told()
        return seconds


def synthetic_tokens(
    config: Config, derived: Derived, device: torch.device, at_step: int = 0
) -> Tensor:
    """A step's batch (B, T + 1) of random tokens, from the seed alone and the same on every
    device."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (len(derived.rows(at_step)), derived.sizes.context + 1)
    return torch.randint(config.model.vocab_size, shape, generator=generator).to(device)


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process; one more means that it compiled."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # not loaded: nothing was ever compiled
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0


def reserved_memory_bytes(device: torch.device) -> int:
    """What the process keeps others from using, its allocator's reserve included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return peak_memory_bytes(device)


def device_memory_bytes(device: torch.device) -> int:
    """What there is to share."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _require_step(at_step: int, derived: Derived) -> None:
    if not 0 <= at_step < derived.steps:
        raise ConfigErrors(
            [
                ConfigError(
                    path="--at-step",
                    expected=f"a step of the schedule, 0 to {derived.steps - 1}",
                    got=str(at_step),
                    hint="Choose one of them, or leave it out for the first.",
                )
            ]
        )


def _require_rows(config: Config) -> None:
    """Two that take turns share a GPU: what one finds free there the other is about to take."""
    if not config.system.fit_memory:
        return
    hint = "Set it to false, and system.device_batch_rows to rows that fit for both."
    fault = ConfigError(
        path="system.fit_memory",
        expected="false, where trainers take turns",
        got="true",
        hint=hint,
    )
    raise ConfigErrors([fault])
