"""The training loop: one run from its configuration to its metrics.

The order of a run: data, build, compile (a forward and backward pass without effect), calibrate,
restore if resumed, then steps with evaluations and checkpoints between them.
"""

import math
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import directory as checkpoint
from model.checkpoint.directory import Manifest, ResumeOptions
from model.checkpoint.resume import newest_whole
from model.checkpoint.writer import CheckpointWriter
from model.config import Config
from model.config.derive import Derived
from model.config.horizon import position_of
from model.core import outcomes_file, table
from model.core.evaluation import Evaluation
from model.data.loader import Loader
from model.data.prepare import Prepared, prepare
from model.data.settings import DataSettings
from model.distributed.ranks import ALONE, Ranks, join_group
from model.distributed.step_status import StepStatus, StepStatusReduction
from model.distributed.stragglers import SAMPLE_EVERY_S, StragglerStatistics
from model.evaluate import evaluate
from model.kernels import kernel_plan
from model.runtime import precompile, preflight
from model.runtime.compilation import Compilation
from model.runtime.environment import environment_json, of_all_ranks, peak_flops, peak_memory_bytes
from model.runtime.process import write_config
from model.runtime.run_dir import RunDirectory
from model.runtime.sinks import open_sinks
from model.runtime.stop import CHECKPOINT_GRACE_S, Stop
from model.runtime.throughput import StageThroughput
from model.system.sm_clock import SmClock
from model.system.timing import Clock, Lap, Span
from model.trainer import Diverged, Interrupted, Trainer
from model.tricks.document_mask import require_bos

# sums of Training that its metrics are made of
COUNTERS = ("train_time_s", "loader_wait_s", "eval_s", "recompiled_steps")


class Training:
    """One run, which writes events as it proceeds."""

    def __init__(
        self,
        config: Config,
        derived: Derived,
        run: RunDirectory,
        stop: Stop,
        ranks: Ranks = ALONE,
        resume: ResumeOptions | None = None,
    ) -> None:
        self.config, self.derived, self.run, self.stop = config, derived, run, stop
        self.ranks, self.resume = ranks, resume
        self.first_step = 0  # of this process
        self._status = StepStatus()  # the last reduced status
        self.train_time_s = self.loader_wait_s = self.eval_s = 0.0
        self.recompiled_steps = 0
        self.speeds = StageThroughput(derived.stages)
        self.core: Evaluation | None = None
        self._pending: deque[_Step] = deque()

    def run_all(self, started: float) -> None:
        """The whole run; raises Diverged, Interrupted, and other errors."""
        if self.ranks.rank == 0:
            open_sinks(self.config, self.run)  # first, because a package may be missing
        self._phase_since("startup", started)
        device = preflight.device_of(self.config, self.ranks)
        join_group(self.ranks, device)
        # before the packages are imported, which read the cache folder then
        self.compilation = Compilation.start(self.config, device)
        self._timed("preflight", lambda: self._check(device))
        prepared = self._timed("data", self._open_data)
        require_bos(self.config, prepared.bos_id)
        if self.config.core is not None:  # now, because the bundle may be faulty
            self.core = self._timed("core_prompts", lambda: self._open_core(prepared))
        rows = prepared.rows("train", self.derived.stages[-1].last_row)
        self.validation = prepared.rows("validation", self.derived.validation_rows)
        self.trainer = self._timed("build", lambda: self._build(device))
        self.bytes_per_token = torch.from_numpy(prepared.bytes_per_token).to(device)
        compile_s = 0.0
        if self.config.system.compile:
            began = time.time()
            self.compilation.warm_up(self.trainer.warm_up)
            compile_s = self._phase_since("compile", began)
            self.run.event("compile_cache", **self.compilation.as_json())
            self.compilation.take_report()  # later compilations are recompilations
        self.run.metrics["compile_s"] = compile_s
        environment = self._timed("calibrate", self._environment)
        self.run.write("environment.json", environment)
        self.environment_id = environment["environment_id"]
        self.identity = checkpoint.identity_of(self.config, prepared.data_id, self.ranks.count)
        self.run.metrics["resumes"] = 0
        if self.resume is not None:
            self._timed("restore", partial(self._restore, self.resume))
        if self.config.eval.at_start and self.first_step == 0:
            self._evaluate(0)
        self.run.metrics["startup_s"] = time.time() - started
        folder, settings = checkpoint.folder_of(self.run.root), self.config.checkpoint
        place = {"rank": self.ranks.rank, "ranks": self.ranks.count, "start_step": self.first_step}
        with (
            Loader(rows, batch_rows=self.derived.rows, device=device, **place) as loader,
            CheckpointWriter(
                folder, settings, device, at_step=self.first_step, ranks=self.ranks
            ) as writer,
            SmClock(device, use_smi=False).sampling(SAMPLE_EVERY_S) as samples,
        ):
            begun, used_s = self.first_step, self.train_time_s
            self.stragglers = StragglerStatistics(
                self.ranks, device, samples, step=begun, train_time_s=used_s
            )
            self._all_steps(loader, writer)
        self._summarise(environment)
        if self.core is not None:
            last = partial(self._evaluate_core, self.core, self.run.steps, final=True)
            self._timed("core", last)

    def _build(self, device: torch.device) -> Trainer:
        return Trainer(self.config, self.derived, device, self.ranks)

    def _check(self, device: torch.device) -> None:
        kernels, fitted = preflight.check(self.config, self.derived, device, self.ranks)
        if fitted != self.derived:
            self.derived = fitted
            write_config(self.run, self.config, fitted)
        precompile.start(self.config, self.derived.sizes, kernels, self.compilation.cache)

    def _open_data(self) -> Prepared:
        settings = DataSettings.from_config(self.config)
        return prepare(settings, lambda text: print(text, flush=True))

    def _environment(self) -> dict[str, Any]:
        system, trainer = self.config.system, self.trainer
        environment = environment_json(
            trainer.device,
            precision=system.precision,
            kernel_plan=kernel_plan(self.config, trainer.kernels),
            calibration_s=system.calibration_s,
        )
        environment = of_all_ranks(environment, self.ranks)
        passes = {
            "device_batch_rows": self.derived.device_batch_rows,
            "gradient_accumulation": self.derived.gradient_accumulation,
        }
        return {**environment, **passes, "compile_cache": self.compilation.as_json()}

    def _all_steps(self, loader: Loader, writer: CheckpointWriter) -> None:
        steps, every = self.derived.steps, self.config.eval.every_steps
        clock = Clock(self.trainer.device)
        began = time.time()
        index = self.first_step
        while (position := self._position(index)) < steps:
            if self._status.stopping or (self.ranks.alone and self.stop.reason is not None):
                self._read_steps(0)
                self._interrupt(index, writer)
            batch = loader.next()
            own = None if self.ranks.alone else clock.span()
            worked = None if own is None else own.end
            loss, scale = self.trainer.step(index, batch.tokens, position, worked)
            call = StepStatusReduction(self.ranks, loss, self._own_status(writer))
            compiled_s = self._recompilation(index + 1)
            step = _Step(index + 1, call, clock.lap(), own, batch.waited_s, scale, compiled_s)
            self._pending.append(step)
            # on a GPU one step stays pending, so that reading its loss never stalls the GPU
            self._read_steps(1 if self.trainer.device.type == "cuda" else 0)
            index += 1
            self._report_stragglers(index, last=False)
            if index == steps:
                self.trainer.finish()
            if every is not None and index % every == 0:
                self._read_steps(0)
                self._evaluate(index)
                clock.begin()
            if self.core is not None and self._core_is_due(index):
                self._read_steps(0)
                self._evaluate_core(self.core, index, final=False)
                clock.begin()
            if self._save(writer, index, last=False):
                clock.begin()
        self._read_steps(0)
        self._report_stragglers(index, last=True)
        if every is None or index % every:
            self._evaluate(index)
        if index < steps:
            self.run.event("horizon", reached="dial.train_time_s", step=index)
        self._save(writer, index, last=True)
        writer.complete()
        writer.close()
        self._record_checkpoints(writer)
        self.run.phase("train", time.time() - began)  # complete, even after a request to stop

    def _save(self, writer: CheckpointWriter, step: int, *, last: bool) -> bool:
        """Write a checkpoint if one is due after `step`, and finish the previous one; returns
        whether training stopped for it."""
        status = writer.status() if self.ranks.alone else self._status
        if agreed := writer.awaits_ranks and (last or not status.writing):
            writer.agree()
            status = replace(status, writing=True)  # rank 0 publishes
        if due := writer.due(step, last=last, status=status):
            self._read_steps(0)
            writer.save(self.trainer.state_dict(), self._manifest(step))
        if agreed or due:  # outdates the reduced status
            self._status = replace(self._status, writing=True, overdue=False)
        self._record_checkpoints(writer)
        return due or agreed

    def _report_stragglers(self, step: int, *, last: bool) -> None:
        """Write an event `ranks` about every ten seconds of training, and one after the last
        step."""
        self._read_stragglers()
        if self.stragglers.is_due(step, self._agreed_time_s, last=last):
            self.stragglers.begin_exchange(step, self._agreed_time_s)
        if last:
            self._read_stragglers()

    def _read_stragglers(self) -> None:
        statistics = self.stragglers.take()
        if statistics is not None:
            self.run.event("ranks", **statistics)

    def _interrupt(self, step: int, writer: CheckpointWriter) -> None:
        """End the run after `step` steps, with a checkpoint if configured."""
        reason = self.stop.request("another rank received a request to stop")
        self.stop.exit_after(CHECKPOINT_GRACE_S)
        if self.config.checkpoint.at_stop and step > 0:
            writer.save_now(self.trainer.state_dict(), self._manifest(step))
        writer.complete()
        writer.close()
        self._record_checkpoints(writer)
        hint = None
        if writer.newest_step > 0:
            step = writer.newest_step
            hint = f"Re-run the same command with --resume to continue after step {step}."
        raise Interrupted(reason, hint)

    def _next_row(self, step: int) -> int:
        return self.derived.tokens_until(step) // self.derived.sizes.context

    def _manifest(self, step: int) -> Manifest:
        return Manifest(
            step=step,
            tokens=self.run.tokens,
            next_row=self._next_row(step),
            metrics=dict(self.run.metrics),
            counters={name: getattr(self, name) for name in COUNTERS},
            environment_id=self.environment_id,
            identity=self.identity,
        )

    def _record_checkpoints(self, writer: CheckpointWriter) -> None:
        """Write the outcomes of checkpoints as events."""
        for outcome in writer.take_results():
            if outcome.refused is None:
                self.run.event("checkpoint", **outcome.as_json())
                continue
            print(f"no checkpoint at step {outcome.step}: {outcome.refused}", file=sys.stderr)
            self.run.event("checkpoint_failed", **outcome.as_json())

    def _restore(self, resume: ResumeOptions) -> None:
        """Load the newest intact checkpoint, if any; raises RunError."""
        folder = checkpoint.folder_of(self.run.root)
        found = newest_whole(folder, self.identity, resume, self.ranks)
        if found is None:
            self._print("no checkpoint to resume from: the run starts from its first step")
            self.run.continue_from(0)
            return
        saved = found.manifest
        same_code = saved.identity.code_id == self.identity.code_id
        assert saved.next_row == self._next_row(saved.step), (saved.next_row, saved.step)
        try:
            if saved.identity.ranks == self.ranks.count:
                self.trainer.load_state_dict(found.states[0])
            else:
                self.trainer.load_state_of_ranks(found.states)
        except (RuntimeError, ValueError, KeyError) as error:
            if same_code:
                raise
            raise checkpoint.not_loadable(found.path, error) from error
        for name, value in saved.counters.items():
            setattr(self, name, value)
        self._status = StepStatus(train_time_s=self.train_time_s)
        self.first_step = self.run.steps = saved.step
        self.speeds = StageThroughput(self.derived.stages, saved.step)
        self.run.tokens = saved.tokens
        own = {name: value for name, value in self.run.metrics.items() if value is not None}
        self.run.metrics.update({**saved.metrics, **own})  # keeps its own compile_s
        self.run.metrics["resumes"] = (saved.metrics.get("resumes") or 0) + 1
        self.run.continue_from(saved.step)
        for fault in found.damaged:
            self.run.event("checkpoint_damaged", **fault.as_json())
            if self.ranks.rank == 0:
                print(f"skipped: {fault}", file=sys.stderr)
                checkpoint.mark_damaged(Path(fault.path))
        self.run.event(
            "resumed",
            step=saved.step,
            earlier_status=self.run.earlier_status,
            same_code=same_code,
            ranks=saved.identity.ranks,
            same_environment=saved.environment_id == self.environment_id,
        )

    def _own_status(self, writer: CheckpointWriter) -> StepStatus:
        """This rank's status at the end of a step."""
        stopping = self.stop.reason is not None
        return replace(writer.status(), stopping=stopping, train_time_s=self.train_time_s)

    def _print(self, text: str) -> None:
        if self.ranks.rank == 0:
            print(text, flush=True)

    def _position(self, index: int) -> float:
        """The position in the schedules before a step (from 0)."""
        budget_s = self.config.dial.train_time_s
        return position_of(index, self.derived.steps, self._agreed_time_s, budget_s)

    @property
    def _agreed_time_s(self) -> float:
        """The training time of rank 0, which all ranks use."""
        return self.train_time_s if self.ranks.alone else self._status.train_time_s

    def _recompilation(self, step: int) -> float:
        """Seconds of compiling since the last call, which become an event."""
        report = self.compilation.take_report()
        if report is None:
            return 0.0
        self.run.event("recompilation", step=step, **asdict(report))
        return report.seconds

    def _read_steps(self, keep: int) -> None:
        """Read and record pending steps until `keep` are left; raises Diverged."""
        while len(self._pending) > keep:
            step = self._pending.popleft()
            # compilation does not count as training time, and such a step not towards the speed
            loss, self._status = step.call.result()
            seconds = max(0.0, step.lap.seconds() - step.compiled_s)
            tokens = self.derived.tokens_until(step.number)
            self.train_time_s += seconds
            self.loader_wait_s += step.waited_s
            self.recompiled_steps += bool(step.compiled_s)
            if not step.compiled_s:
                self.speeds.add(step.number - 1, seconds)
                compute_s = seconds if step.own is None else step.own.seconds()
                self.stragglers.add(compute_s, step.waited_s)
            self.run.steps, self.run.tokens = step.number, tokens
            metrics = self.run.metrics
            metrics["train_time_s"] = self.train_time_s
            metrics["loader_wait_s"] = self.loader_wait_s
            metrics["train_loss"] = loss
            metrics["recompiled_steps"] = self.recompiled_steps
            self.run.event(
                "step",
                step=step.number,
                tokens=tokens,
                loss=round(loss, 6) if math.isfinite(loss) else None,
                step_s=round(seconds, 6),
                loader_wait_s=round(step.waited_s, 6),
                train_time_s=round(self.train_time_s, 6),
                lr_scale=round(step.lr_scale, 6),
                **({"recompiled": True} if step.compiled_s else {}),
            )
            if not math.isfinite(loss):
                raise Diverged(f"training loss {loss} at step {step.number}")

    def _evaluate(self, step: int) -> None:
        began = time.time()
        own = self.ranks.share(self.derived.validation_rows)
        with self.trainer.averaged_weights():
            result = evaluate(
                self.trainer.gpt,
                self.validation.tokens(own.start, own.stop),
                self.bytes_per_token,
                self.derived.device_batch_rows,
                self.ranks,
            )
        seconds = time.time() - began
        self.eval_s += seconds
        self._recompilation(step)
        metrics = self.run.metrics
        metrics["val_loss"], metrics["val_bpb"] = result.val_loss, result.val_bpb
        metrics["eval_s"] = self.eval_s
        self.run.event(
            "evaluation",
            step=step,
            tokens=self.derived.tokens_until(step),
            train_time_s=round(self.train_time_s, 6),
            val_loss=result.val_loss,
            val_bpb=result.val_bpb,
            seconds=round(seconds, 4),
        )
        self._print(f"step {step}/{self.derived.steps} val_bpb {result.val_bpb:.5f}")

    def _open_core(self, prepared: Prepared) -> Evaluation:
        tokenizer, progress = prepared.tokenizer, partial(print, flush=True)
        return Evaluation(self.config, self.derived, tokenizer, progress)

    def _core_is_due(self, step: int) -> bool:
        """Whether to evaluate CORE after a step before the last."""
        every = self.config.core.every_steps if self.config.core is not None else None
        return every is not None and step % every == 0 and step < self.derived.steps

    def _evaluate_core(self, core: Evaluation, step: int, *, final: bool) -> None:
        with self.trainer.averaged_weights():
            found = core(self.trainer.gpt, self.trainer.kernels, self.ranks)
        self.run.metrics.update(found.metrics)
        if self.ranks.rank == 0:
            path = self.run.path / outcomes_file.file_name(step, final=final)
            outcomes_file.write(path, found.outcomes, found.result, found.identity)
            print("\n".join(table.lines(found.result, found.seconds)), flush=True)
        self.run.event("core", step=step, **found.as_json())

    def _summarise(self, environment: dict[str, Any]) -> None:
        metrics, derived = self.run.metrics, self.derived
        metrics["tokens_per_s_job"] = self.run.tokens / self.train_time_s
        metrics.update(self.speeds.metrics(derived.sizes.context))
        metrics["peak_memory_bytes"] = self.ranks.maximum(peak_memory_bytes(self.trainer.device))
        if self.trainer.device.type == "cuda":
            peak = peak_flops(environment["gpus"][0]["name"])
            if peak is not None and metrics["tokens_per_s"] is not None:
                flops = derived.flops_per_token * metrics["tokens_per_s"]
                metrics["mfu"] = flops / (peak * self.ranks.count)

    def _timed(self, name: str, call: Any) -> Any:
        began = time.time()
        value = call()
        self._phase_since(name, began)
        return value

    def _phase_since(self, name: str, began: float) -> float:
        seconds = time.time() - began
        self.run.phase(name, seconds)
        if self.stop.reason is not None:
            raise Interrupted(self.stop.reason)
        return seconds


@dataclass(frozen=True)
class _Step:
    """A step whose loss and time are not yet read."""

    number: int
    call: StepStatusReduction
    lap: Lap
    own: Span | None
    """Up to the first wait for another rank; null for a single rank."""
    waited_s: float
    lr_scale: float
    compiled_s: float
