"""The verb `train`: one run.

A real process under the trainer contract: files, signals, watch descriptor and exit code. The loss
is a power law in tokens plus the effects of the tricks plus noise of known size. Step times are
drawn, not measured, so a study of seconds has the numbers of one of hours. On request (`fail`) a
run crashes, hangs, diverges or runs out of memory. With `--ranks N` this one process simulates N
ranks, each with a GPU of its own.
"""

import argparse
import json
import math
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from harness import files
from harness.errors import HarnessError
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer import core
from harness.runner.fake_trainer.machine import Machine, gpus_by_number, visible_gpus

BYTES_PER_TOKEN = 4.4
TOKENS_PER_S = 60_000.0  # of the bare configuration at depth 4
PEAK_FLOPS = 5e12
RANKS_EVENT_STEPS = 5
Ending = tuple[str, str | None]  # status and reason, as in result.json


class Interrupted(Exception):
    """The run has to stop; the message is the reason in result.json."""


class Curve:
    """Loss and step time as functions of the step, for one configuration and seed.

    `now_s` is when the run starts, for the drift of the host; None for a speed without noise.
    """

    def __init__(self, config: dict[str, Any], now_s: float | None, ranks: int = 1) -> None:
        self.derived = fake.derived(config)
        on = [name for name, is_on in fake.tricks(config).items() if is_on]
        noise = config["noise"]
        self.draw = fake.generator(config)
        self.seed_shift = noise["loss_sd"] * self.draw.gauss(0, 1)
        self.effect: float = sum(fake.EFFECTS[name][0] for name in on) + _lr_penalty(config)
        self.effect += config["plant"]["loss"] + fake.bowl_loss(config)
        speed = TOKENS_PER_S * 4 / config["dial"]["depth"]
        for name in on:
            speed *= 1 + fake.EFFECTS[name][1]
        speed /= 1 + config["plant"]["slowdown"]
        slower = 1 + noise["speed_cv"] * self.draw.gauss(0, 1)
        slower = 1.0 if now_s is None else slower + host_drift(config, now_s)
        self.step_s = self.derived["batch_tokens"] / speed / ranks * slower

    def loss(self, step: int) -> float:
        """Validation loss after `step` steps, in nats per token."""
        tokens = step * self.derived["batch_tokens"]
        clean = 2.2 + 6.0 * (1 + tokens / 40_000) ** -0.33
        grown = 1 - math.exp(-3 * step / self.derived["steps"])
        return float(clean + (self.effect + self.seed_shift) * grown)


def host_drift(config: dict[str, Any], now_s: float) -> float:
    """The relative slowdown of the simulated host at a time."""
    noise = config["noise"]
    phase = 2 * math.pi * now_s / noise["host_drift_period_s"]
    return float(noise["host_drift"] * math.sin(phase))


def _lr_penalty(config: dict[str, Any]) -> float:
    """The loss, in nats, due to an AdamW learning rate other than the best, 0.003."""
    if config["optimizer"]["matrices"] == "muon":
        return 0.0
    return float(0.02 * math.log(config["optimizer"]["adamw_lr"] / 0.003) ** 2)


class FakeRun:
    """One run in one directory."""

    machine_type = Machine

    def __init__(
        self,
        config: dict[str, Any],
        out: Path,
        watch_fd: int | None,
        ranks: int = 1,
        *,
        resume: bool = False,
    ) -> None:
        self.config, self.out, self.watch_fd = config, out, watch_fd
        self.ranks, self.resume = ranks, resume
        self.machine = self.machine_type(config, ranks)
        self.fail = config["fail"] if self.fails() else fake.DEFAULTS["fail"]
        self.stopped = False
        self.step, self.train_time_s, self.resumes = 0, 0.0, 0
        if resume:
            self._load_checkpoint()
        self.first_step = self.step + 1
        self.started_s = time.time()

    def fails(self) -> bool:
        """Whether the failures of the configuration apply to this run."""
        seeds = self.config["fail"]["at_seeds"]
        return seeds is None or self.config["seed"] in seeds

    def main(self) -> int:
        """Runs to the end and returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.on_signal)
        self.out.mkdir(parents=True, exist_ok=True)
        files.write_json(self.out / "environment.json", environment(self.ranks))
        if self.resume:
            _drop_later_events(self.out / "events.jsonl", self.step)
        with open(self.out / "events.jsonl", "a", encoding="utf-8") as events:
            try:
                status, reason = self._train(events)
            except Interrupted as interruption:
                status, reason = "interrupted", str(interruption)
                self._save_checkpoint(max(0, self.step - 1))
        self._write_result(status, reason)
        return 0 if status == "completed" else 3

    def on_signal(self, *_: object) -> None:
        self.stopped = True

    def _train(self, events: IO[str]) -> Ending:
        curve = Curve(self.config, self.started_s, self.ranks)
        self.wait(self.config["pace"]["startup_ms"])
        self._log(events, event="phase", name="startup", seconds=0.01)
        steps, every = curve.derived["steps"], self.config["eval"]["every_steps"]
        checkpoint_every = self.config["checkpoint"]["every_steps"]
        for step in range(self.first_step, steps + 1):
            self.step = step
            if (ending := self.failure(events)) is not None:
                return ending
            self.wait(self.config["pace"]["sleep_ms"])
            step_s = curve.step_s * (1 + 0.01 * curve.draw.gauss(0, 1))
            self.train_time_s += step_s
            self._log_step(events, curve, step_s)
            if self.step % RANKS_EVENT_STEPS == 0:
                self._log(events, **self.machine.ranks_event(self.step, step_s))
            if self.step == steps or (every and self.step % every == 0):
                self._log_evaluation(events, curve)
            if checkpoint_every and (self.step % checkpoint_every == 0 or self.step == steps):
                self._save_checkpoint(self.step)
        return "completed", None

    def failure(self, events: IO[str]) -> Ending | None:
        """Fails at this step if the configuration requests it; returns how the run ends."""
        if self.step == self.fail["crash_at_step"]:
            raise RuntimeError(f"crashed at step {self.step}, as requested")
        while self.step == self.fail["hang_at_step"]:
            self.wait(50)
        if self.step == self.fail["diverge_at_step"]:
            return "diverged", f"the loss was not finite at step {self.step}, as requested"
        if self.step == self.fail["out_of_memory_at_step"]:
            return "out_of_memory", f"out of memory at step {self.step}, as requested"
        return None

    def wait(self, milliseconds: float) -> None:
        """Sleeps; raises Interrupted after a signal or when the harness is gone."""
        time.sleep(milliseconds / 1000)
        if self.stopped:
            raise Interrupted("stopped by a signal")
        if self.watch_fd is not None and select.select([self.watch_fd], [], [], 0)[0]:
            raise Interrupted("the harness is gone")

    def train_loss(self, curve: Curve) -> float:
        """Training loss of this step, with the noise of one batch."""
        return curve.loss(self.step) + 0.03 * curve.draw.gauss(0, 1)

    def _log_step(self, events: IO[str], curve: Curve, step_s: float) -> None:
        self._log(
            events,
            event="step",
            step=self.step,
            tokens=self.step * curve.derived["batch_tokens"],
            loss=self.train_loss(curve),
            step_s=step_s,
            loader_wait_s=0.0,
            train_time_s=self.train_time_s,
            lr_scale=1.0,
        )

    def _log_evaluation(self, events: IO[str], curve: Curve) -> None:
        loss = curve.loss(self.step)
        self._log(
            events,
            event="evaluation",
            step=self.step,
            tokens=self.step * curve.derived["batch_tokens"],
            train_time_s=self.train_time_s,
            val_loss=loss,
            val_bpb=bits_per_byte(loss),
            seconds=0.05,
        )

    def _log(self, events: IO[str], **event: object) -> None:
        events.write(json.dumps({"t": time.time(), **event}) + "\n")
        events.flush()

    def _load_checkpoint(self) -> None:
        if checkpoints := sorted((self.out / "checkpoints").glob("step-*")):
            state = files.read_json(checkpoints[-1] / "state.json")
            self.step, self.train_time_s = int(state["step"]), float(state["train_time_s"])
            self.resumes = int(state["resumes"])
        self.resumes += 1

    def _save_checkpoint(self, step: int) -> None:
        """Writes a checkpoint as a whole folder and removes older ones, if any are configured."""
        path = self.out / "checkpoints" / f"step-{step:08d}"
        if not self.config["checkpoint"]["every_steps"] or step <= 0 or path.exists():
            return
        partial = path.with_name(f".{path.name}")
        loss = Curve(self.config, self.started_s, self.ranks).loss(step)  # its weights
        state = {"step": step, "train_time_s": self.train_time_s, "resumes": self.resumes}
        state["loss"] = loss
        files.write_json(partial / "state.json", state)
        os.replace(partial, path)
        for older in path.parent.glob("step-*"):
            if older != path:
                shutil.rmtree(older)

    def _write_result(self, status: str, reason: str | None) -> None:
        done = self.step if status == "completed" else max(0, self.step - 1)
        tokens = done * fake.derived(self.config)["batch_tokens"]
        result = {
            "status": status,
            "reason": reason,
            "hint": None if status == "completed" else "Change `fail` in the configuration.",
            "steps": done,
            "tokens": tokens,
            "metrics": self.metrics(tokens) if status == "completed" else {},
        }
        self.leave_result(json.dumps(result))

    def leave_result(self, text: str) -> None:
        """Writes result.json."""
        files.write_text(self.out / "result.json", text)

    def metrics(self, tokens: int) -> dict[str, float | None]:
        """The metrics of result.json; writes core.parquet if CORE is evaluated."""
        curve = Curve(self.config, self.started_s, self.ranks)
        loss = curve.loss(self.step)
        speed = tokens / self.train_time_s
        if answers := core.answers(self.config, loss):
            core.write(self.out / "core.parquet", self.config, answers)
        return {
            "train_time_s": self.train_time_s,
            "tokens_per_s": speed,
            "tokens_per_s_job": speed,
            "loader_wait_s": 0.0,
            "mfu": curve.derived["flops_per_token"] * speed / PEAK_FLOPS,
            "val_loss": loss,
            "val_bpb": bits_per_byte(loss),
            "train_loss": loss + 0.01,
            "compile_s": 0.0,
            "startup_s": time.time() - self.started_s,
            "eval_s": 0.05,
            "peak_memory_bytes": float(self.machine.held_bytes()),
            "resumes": float(self.resumes),
            **core.metrics(answers),
        }


def _drop_later_events(events: Path, step: int) -> None:
    """Removes the events after a step, and half-written lines, before the run resumes there."""
    lines = events.read_text(encoding="utf-8").splitlines(keepends=True) if events.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if int(json.loads(line).get("step", 0)) <= step]
    files.write_text(events, "".join(kept))


def bits_per_byte(loss: float) -> float:
    """Converts nats per token at a fixed number of bytes per token."""
    return loss / math.log(2) / BYTES_PER_TOKEN


def environment(ranks: int = 1) -> dict[str, Any]:
    """The content of environment.json; nothing in it is measured."""
    if ranks > 1:
        gpus = gpus_by_number(range(ranks))
    else:
        gpus = visible_gpus() if os.environ.get("CUDA_VISIBLE_DEVICES") is not None else []
    return {
        "gpus": gpus,
        "torch": None,
        "attention_backend": "formula",
        "precision": "formula",
        "compile_cache": {"result": "off"},
        "cpu": {"name": "simulated", "cores": os.cpu_count()},
        "python": sys.version.split()[0],
        "environment_id": files.digest([gpu["uuid"] for gpu in gpus], 16),
    }


def command_line(verb: Callable[..., int]) -> int:
    """Parses the arguments of a verb: `verb(config, out, watch_fd, ranks, resume=, nodes=,
    probe=)`.

    Prints the fault of an invalid configuration and returns exit code 2.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--watch-fd", type=int)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--probe", action="store_true")
    options = parser.parse_args()
    try:
        config = fake.load(options.config, {})
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 2
    return verb(
        *(config, options.out, options.watch_fd, options.ranks),
        resume=options.resume,
        nodes=options.nodes,
        probe=options.probe,
    )


def main(run_type: type[FakeRun] = FakeRun) -> int:
    """The verb `train`."""
    return command_line(lambda *arguments, resume, **_: run_type(*arguments, resume=resume).main())


if __name__ == "__main__":
    sys.exit(main())
