"""A trainer that steps on request, for `model.pace`.

Speeds are compared between processes that run at the same time and alternate in segments, so that a
GPU that warms up or slows down affects both. The trainer is built and compiled as in a run, and
settles until three steps in a row compile nothing. From then on:

- It takes any number of steps. A schedule ends and may have stages of different cost, so it is held
  fixed: every step is step `at_step` of the schedule (0 by default, where a warm-up keeps the
  learning rate small), and a segment never mixes stages. Where tables step at intervals, segments
  cycle through the steps of the interval.
- Data does not end: the first 64 batches of the plan are repeated.
- A segment times only steps. It starts and ends with an idle device. In between, as in training,
  the host is at most one step ahead of the GPU. The loader continues between segments, so that the
  first batch of a segment is ready.
- Between segments it holds its memory and neither computes nor polls.

Batches come from the loader, or with `synthetic` are one random batch, which needs no data. `same`
repeats the loader's last batch, which measures the cost of the loader.

All ranks step together, as in training, with its status all-reduce at the end of each step. Their
steps take equally long, because the fast ones wait: a slow rank shows in `compute_s_by_rank`, the
time from a step's start to the first wait for another rank.
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
from model.system.timing import Clock, Lap, Span
from model.trainer import Diverged, Interrupted, Trainer
from model.tricks.document_mask import require_bos

QUIET_STEPS = 3  # steps in a row without a compilation
MOST_SETTLING_STEPS = 50  # code that recompiles at every step never settles
PLANNED_BATCHES = 64

Source = Literal["loader", "same"]
Value = TypeVar("Value")


class Batches(Protocol):
    """The source of a segment's batches."""

    def next(self) -> Batch:
        """The next batch, on the device."""


class RepeatedBatch:
    """One batch, repeated."""

    def __init__(self, tokens: Tensor) -> None:
        self._batch = Batch(tokens=tokens, waited_s=0.0)

    def next(self) -> Batch:
        return self._batch


@dataclass
class _Steps:
    """The steps of a segment; their times are read once the device is idle."""

    laps: list[Lap] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    own: list[Span] = field(default_factory=list)
    """Up to the first wait for another rank; empty for a single rank."""
    call: StepStatusReduction | None = None
    """The status all-reduce of the last step."""

    def compute_s(self) -> float:
        """Mean time of this rank's own part of a step."""
        own = self.own or self.laps  # a single rank never waits
        return math.fsum(part.seconds() for part in own) / len(self.laps)


class Stepper:
    """A trainer and its batches: call `make_ready`, then `segment`, and `close` at the end."""

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
        self.control_group: ControlGroup
        self._loader: Loader | None = None
        self._last: Batch
        self._sm_clock: SmClock

    def make_ready(self, started: float) -> dict[str, Any]:
        """Build, compile and settle; returns the fields of the `ready` event.

        Raises Interrupted, and any error of building a trainer.
        """
        self._phase_since("startup", started)
        self.device = preflight.device_of(self.config, self.ranks)
        join_group(self.ranks, self.device)
        self.control_group = ControlGroup(self.ranks)
        # before the packages are imported, which read the cache folder then
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
            self._last = RepeatedBatch(tokens[self.ranks.share(len(tokens))]).next()
        else:
            place = {"rank": self.ranks.rank, "ranks": self.ranks.count}
            batch_rows, device = self._batch_rows, self.device
            self._loader = Loader(rows, batch_rows=batch_rows, device=device, **place)
        step_s = self._settle()
        environment = self._timed("environment", self._environment)
        self.run.write("environment.json", environment)
        self.run.metrics["startup_s"] = time.time() - started
        return self._ready(environment, step_s)

    def segment(self, steps: int, source: Source = "loader") -> dict[str, Any]:
        """Take `steps` steps; returns their times and statistics.

        Raises Interrupted on a request to stop, and Diverged when the last loss is not finite.
        """
        graphs = compiled_graphs()
        with self._sm_clock.sampling() as samples:
            self._synchronise()
            taken = self._run_steps(steps, self._batches(source))
            self._synchronise()
        loss = self._read_loss(taken.call)
        if not math.isfinite(loss):
            raise Diverged(f"training loss {loss} after {steps} steps of a segment")
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
        """Statistics of a segment, by rank."""
        own = {
            "compute_s": round(taken.compute_s(), 7),
            "sm_clock_mhz": samples.median_mhz,
            "throttled": None if samples.reasons is None else reasons_in(samples.reasons),
            "recompiled": recompiled,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }
        by_rank = self.control_group.all_gather_object(own)
        return {name: [each[name] for each in by_rank] for name in own}

    def _run_steps(self, steps: int, batches: Batches) -> "_Steps":
        taken = _Steps()
        clock = Clock(self.device)
        for _ in range(steps):
            self._raise_if_stopped(in_segment=True)
            self._last = batches.next()
            own = None if self.ranks.alone else clock.span()
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
            if before is not None:  # waits for the previous step, to stay one step ahead
                taken.laps[-2].seconds()
                if not self.ranks.alone:
                    self._read_loss(before)
        return taken

    def _own_status(self) -> StepStatus:
        return StepStatus(stopping=self.stop.reason is not None)

    def _read_loss(self, call: StepStatusReduction | None) -> float:
        """A step's loss over all rows. Raises Interrupted, at the same step on all ranks."""
        assert call is not None, "a segment without a step"
        loss, status = call.result()
        if status.stopping and not self.ranks.alone:
            raise Interrupted(self.stop.request("another rank received a request to stop"))
        return loss

    def _next_index(self) -> int:
        """Step `at_step`, or the next step of its table interval."""
        interval = self.config.optimizer.table_interval_steps
        self._taken += 1
        return self.at_step - self.at_step % interval + (self._taken - 1) % interval

    def record(self, segment: dict[str, Any]) -> None:
        """Add a segment to the run's events and metrics."""
        self.run.event("turn", **segment)
        metrics = self.run.metrics
        self.run.steps += segment["steps"]
        self.run.tokens += segment["steps"] * self._batch_rows * self.derived.sizes.context
        train_time_s = (metrics["train_time_s"] or 0.0) + sum(segment["step_s"])
        metrics["train_time_s"] = train_time_s
        metrics["loader_wait_s"] = (metrics["loader_wait_s"] or 0.0) + sum(segment["loader_wait_s"])
        metrics["tokens_per_s"] = self.run.tokens / train_time_s
        metrics["train_loss"] = segment["loss"]
        metrics["peak_memory_bytes"] = segment["peak_memory_bytes"]

    def close(self) -> None:
        """Stop the loader's thread."""
        if self._loader is not None:
            self._loader.close()

    @property
    def _batch_rows(self) -> int:
        return len(self.derived.rows(self.at_step))

    def _check(self) -> None:
        # other trainers alternate with it on the same GPU
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
        return RepeatedBatch(self._last.tokens)

    def _settle(self) -> float:
        """Step until QUIET_STEPS in a row compile nothing; returns their median time."""
        began = time.time()
        quiet: list[float] = []
        for number in range(1, MOST_SETTLING_STEPS + 1):
            segment = self.segment(1)
            if number == 1:
                self._phase_since("first_step", began)
            quiet = [] if segment["recompiled"] else quiet + segment["step_s"]
            if len(quiet) == QUIET_STEPS:
                self._phase_since("settle", began)
                return statistics.median(quiet)
        raise MachineError(
            path="system.compile",
            expected=f"{QUIET_STEPS} steps in a row that compile nothing",
            got=f"none in {MOST_SETTLING_STEPS} steps",
            hint="Run with TORCH_LOGS=recompiles to find the cause, or set system.compile: false.",
        )

    def _environment(self) -> dict[str, Any]:
        environment = environment_json(
            self.device,
            precision=self.config.system.precision,
            kernel_plan=kernel_plan(self.config, self.trainer.kernels),
            calibration_s=0.0,  # would disturb the trainer that starts at the same time
        )
        environment = of_all_ranks(environment, self.ranks)
        return {**environment, "compile_cache": self.compilation.as_json()}

    def _ready(self, environment: dict[str, Any], step_s: float) -> dict[str, Any]:
        gpus, metrics = environment["gpus"], self.run.metrics
        peaks = self.control_group.all_gather_object(peak_memory_bytes(self.device))
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

    def _raise_if_stopped(self, *, in_segment: bool = False) -> None:
        """Raise Interrupted; in a segment of several ranks `_read_loss` does."""
        if self.stop.reason is not None and (self.ranks.alone or not in_segment):
            raise Interrupted(self.stop.reason)

    def _timed(self, name: str, call: Callable[[], Value]) -> Value:
        began = time.time()
        value = call()
        self._phase_since(name, began)
        return value

    def _phase_since(self, name: str, began: float) -> float:
        seconds = time.time() - began
        self.run.phase(name, seconds)
        self._raise_if_stopped()
        return seconds


def synthetic_tokens(
    config: Config, derived: Derived, device: torch.device, at_step: int = 0
) -> Tensor:
    """A step's batch (B, T + 1) of random tokens, a function of the seed on every device."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (len(derived.rows(at_step)), derived.sizes.context + 1)
    return torch.randint(config.model.vocab_size, shape, generator=generator).to(device)


def compiled_graphs() -> int:
    """Number of graphs that torch.compile has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # not imported before the first compilation
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0


def reserved_memory_bytes(device: torch.device) -> int:
    """Memory that the process reserves, including the allocator's cache."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return peak_memory_bytes(device)


def device_memory_bytes(device: torch.device) -> int:
    """Total memory of the device."""
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
                    hint="Choose one of them, or omit it for the first.",
                )
            ]
        )


def _require_rows(config: Config) -> None:
    """Refuse `fit_memory`: two trainers on a GPU would both fill its free memory."""
    if not config.system.fit_memory:
        return
    hint = "Set it to false, and system.device_batch_rows so that both trainers fit."
    fault = ConfigError(
        path="system.fit_memory",
        expected="false, because trainers share the GPU",
        got="true",
        hint=hint,
    )
    raise ConfigErrors([fault])
