"""`python -m harness.fake.train --config FILE --out DIR --watch-fd N`: one run of a formula.

A real process under the contract: files, signals, watch descriptor, exit code. The loss is a power
law in tokens plus the tricks' effects plus noise of a known size; step times are drawn, not taken,
so a study of seconds has the numbers of one of hours. It crashes, hangs, diverges and writes half a
line on request. With `--ranks N` this one process pretends to be N of them, each with a GPU.
"""

import argparse
import hashlib
import importlib
import json
import math
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from harness import files
from harness.errors import HarnessError
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer import core, ranks
from harness.runner.fake_trainer.describe import gpus, numbered
from harness.runner.fake_trainer.kept import Kept

BYTES_PER_TOKEN = 4.4
TOKENS_PER_S = 60_000.0  # of the bare configuration at depth 4
PEAK_FLOPS = 5e12


class Interrupted(Exception):
    """The harness is gone, or asked for the end."""


class Curve:
    """Loss and step time as functions of the step, for one configuration and seed.

    `now_s` is when the run begins, for the host's drift; None for a speed without any noise.
    """

    def __init__(self, config: dict[str, Any], now_s: float | None, ranks: int = 1) -> None:
        self.derived = fake.derived(config)
        on = [name for name, used in fake.tricks(config).items() if used]
        noise, seed = config["noise"], config["seed"]
        text = files.canonical_json([fake.identity(config), seed])
        self.draw = random.Random(int(hashlib.sha256(text.encode()).hexdigest()[:16], 16))
        self.seed_shift = noise["loss_sd"] * self.draw.gauss(0, 1)
        self.effect: float = sum(fake.EFFECTS[name][0] for name in on) + _lr_penalty(config)
        self.effect += config["plant"]["loss"] + fake.bowl_loss(config)
        speed = TOKENS_PER_S * 4 / config["dial"]["depth"]
        for name in on:
            speed *= 1 + fake.EFFECTS[name][1]
        speed /= 1 + config["plant"]["slowdown"]
        slower = 1 + noise["speed_cv"] * self.draw.gauss(0, 1)
        if now_s is None:
            slower = 1.0
        else:
            swing = math.sin(2 * math.pi * now_s / noise["host_drift_period_s"])
            slower += noise["host_drift"] * swing
        self.step_s = self.derived["batch_tokens"] / speed / ranks * slower

    def loss(self, step: int) -> float:
        """Nats per token after that step, without the noise of one batch."""
        tokens = step * self.derived["batch_tokens"]
        clean = 2.2 + 6.0 * (1 + tokens / 40_000) ** -0.33
        grown = 1 - math.exp(-3 * step / self.derived["steps"])
        return float(clean + (self.effect + self.seed_shift) * grown)


def _lr_penalty(config: dict[str, Any]) -> float:
    """AdamW away from its best learning rate of 0.003 costs loss."""
    if config["optimizer"]["matrices"] == "muon":
        return 0.0
    return float(0.02 * math.log(config["optimizer"]["adamw_lr"] / 0.003) ** 2)


class FakeRun:
    """One run in one directory."""

    def __init__(
        self,
        config: dict[str, Any],
        out: Path,
        watch_fd: int | None,
        count: int = 1,
        *,
        resume: bool = False,
    ) -> None:
        self.config, self.out, self.watch_fd = config, out, watch_fd
        self.count, self.resume = count, resume
        seeds = config["fail"]["at_seeds"]
        repaired = config["fail"]["until_file"]
        asked = seeds is None or config["seed"] in seeds
        if repaired and Path(repaired).exists():
            asked = False
        self.fail = config["fail"] if asked else fake.DEFAULTS["fail"]
        self.stopped = False
        self.kept = Kept(out) if resume else Kept()
        self.resumes = self.kept.resumes + resume
        self.step = self.kept.step
        self.train_time_s = self.kept.train_time_s
        self.started_s = time.time()

    def main(self) -> int:
        """Runs to its end and returns the exit code."""
        ignore = self.fail["ignore_sigterm"]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN if ignore else self._on_signal)
        self.out.mkdir(parents=True, exist_ok=True)
        files.write_json(self.out / "environment.json", environment(self.count))
        if self.resume:
            ranks.forget_after(self.out / "events.jsonl", self.kept.step)
        with open(self.out / "events.jsonl", "a", encoding="utf-8") as events:
            try:
                status, reason = self._train(events)
            except Interrupted as interruption:
                status, reason = "interrupted", str(interruption)
                self._save(max(0, self.step - 1))
        self._write_result(status, reason)
        code = 0 if status == "completed" else 3
        return code if self.fail["exit_code"] is None else int(self.fail["exit_code"])

    def _on_signal(self, number: int, _: object) -> None:
        self.stopped = True

    def _train(self, events: IO[str]) -> tuple[str, str | None]:
        curve = Curve(self.config, self.started_s, self.count)
        self._wait(self.config["pace"]["startup_ms"])
        self._log(events, event="phase", name="startup", seconds=0.01)
        steps, every = curve.derived["steps"], self.config["eval"]["every_steps"]
        saved = self.config["checkpoint"]["every_steps"]
        first = self.kept.step + 1
        for self.step in range(first, steps + 1):
            ending = self._failure(events)
            if ending is not None:
                return ending
            self._wait(self.config["pace"]["sleep_ms"])
            step_s = curve.step_s * (1 + 0.01 * curve.draw.gauss(0, 1))
            self.train_time_s += step_s
            self._log_step(events, curve, step_s)
            if self.step % ranks.EVERY_STEPS == 0:
                self._log(events, **ranks.event(self.config, self.count, self.step, step_s))
            if self.step == steps or (every and self.step % every == 0):
                self._log_evaluation(events, curve)
            if saved and self.step % saved == 0:
                self._save(self.step)
        return "completed", None

    def _save(self, step: int) -> None:
        """A checkpoint behind a step, where the configuration wants any."""
        if self.config["checkpoint"]["every_steps"] and step > 0:
            Kept(step=step, train_time_s=self.train_time_s, resumes=self.resumes).write(self.out)

    def _log_step(self, events: IO[str], curve: Curve, step_s: float) -> None:
        self._log(
            events,
            event="step",
            step=self.step,
            tokens=self.step * curve.derived["batch_tokens"],
            loss=curve.loss(self.step) + self._jump() + 0.03 * curve.draw.gauss(0, 1),
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

    def _jump(self) -> float:
        """What the training loss leaves its way by."""
        at_step = self.config["plant"]["loss_jump_at_step"]
        jumped = at_step is not None and self.step >= at_step
        return float(self.config["plant"]["loss_jump"]) if jumped else 0.0

    def _failure(self, events: IO[str]) -> tuple[str, str | None] | None:
        """What was asked to go wrong at this step, if anything."""
        fail, step = self.fail, self.step
        if fail["missing_package"]:
            importlib.import_module("a_package_that_nobody_has")
        if step == fail["killed_at_step"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.config["machine"]["rank_killed_at_step"] and not self.resume:
            return "failed", f"rank {self.count - 1} ended without a result, as what is killed does"
        if step == fail["crash_at_step"]:
            if fail["half_line"]:
                events.write('{"event":"step","step":')
                events.flush()
            raise RuntimeError(f"crashed at step {step}, as asked")
        while step == fail["hang_at_step"]:
            self._wait(50)
        beyond = self._beyond_the_bowl()
        if beyond is not None:
            return beyond
        if step == fail["diverge_at_step"]:
            return "diverged", f"the loss was not finite at step {step}, as asked"
        if step == fail["out_of_memory_at_step"]:
            return "out_of_memory", f"out of memory at step {step}, as asked"
        return None

    def _beyond_the_bowl(self) -> tuple[str, str] | None:
        """What goes wrong in the region of the bowl that this configuration lies in."""
        bowl = self.config["bowl"]

        def beyond(value: float, limit: float | None) -> bool:
            return limit is not None and value > limit

        if bowl["crashes_below_x"] is not None and bowl["x"] < bowl["crashes_below_x"]:
            raise RuntimeError(f"crashed at x = {bowl['x']:g}, as asked")
        if beyond(bowl["x"], bowl["diverges_beyond_x"]):
            return "diverged", f"the loss was not finite at x = {bowl['x']:g}, as asked"
        if beyond(bowl["y"], bowl["no_memory_beyond_y"]):
            return "out_of_memory", f"out of memory at y = {bowl['y']:g}, as asked"
        return None

    def _wait(self, milliseconds: float) -> None:
        """Sleeps, and leaves when the harness is gone or asks for it."""
        time.sleep(milliseconds / 1000)
        if self.fail["ignore_sigterm"]:
            return
        if self.stopped:
            raise Interrupted("stopped by a signal")
        if self.watch_fd is not None and select.select([self.watch_fd], [], [], 0)[0]:
            raise Interrupted("the harness is gone")

    def _log(self, events: IO[str], **event: object) -> None:
        events.write(json.dumps({"t": time.time(), **event}) + "\n")
        events.flush()

    def _write_result(self, status: str, reason: str | None) -> None:
        found = fake.derived(self.config)
        done = self.step if status == "completed" else max(0, self.step - 1)
        tokens = done * found["batch_tokens"]
        result = {
            "status": status,
            "reason": reason,
            "hint": None if status == "completed" else "Ask for less in `fail`.",
            "steps": done,
            "tokens": tokens,
            "metrics": self._metrics(tokens) if status == "completed" else {},
        }
        text = json.dumps(result)
        if self.fail["half_result"]:
            (self.out / "result.json").write_text(text[: len(text) // 2])
            return
        files.write_text(self.out / "result.json", text)

    def _metrics(self, tokens: int) -> dict[str, float | None]:
        curve = Curve(self.config, self.started_s, self.count)
        loss = curve.loss(self.step)
        speed = tokens / self.train_time_s
        return {
            "train_time_s": self.train_time_s,
            "tokens_per_s": speed,
            "tokens_per_s_job": speed,
            "loader_wait_s": 0.0,
            "mfu": curve.derived["flops_per_token"] * speed / PEAK_FLOPS,
            "val_loss": float("nan") if self.fail["nan_metric"] else loss,
            "val_bpb": bits_per_byte(loss),
            "train_loss": loss + 0.01,
            "compile_s": 0.0,
            "startup_s": time.time() - self.started_s,
            "eval_s": 0.05,
            "peak_memory_bytes": float(fake.held_bytes(self.config)),
            "resumes": float(self.resumes),
            **self._core(loss),
        }

    def _core(self, loss: float) -> dict[str, float | None]:
        """The scores; the outcomes are left in the run directory, before the result."""
        found = core.answers(self.config, loss)
        if found:
            path = self.out / "core.parquet"
            core.write(path, self.config, found)
            if self.fail["half_core"]:
                os.truncate(path, path.stat().st_size // 2)
        lost = {"core_soft": math.nan} if found and self.fail["nan_metric"] else {}
        return {**core.metrics(found), **lost}


def bits_per_byte(loss: float) -> float:
    """From nats per token, at a fixed number of bytes per token."""
    return loss / math.log(2) / BYTES_PER_TOKEN


def environment(count: int = 1) -> dict[str, Any]:
    """The machine as it would be seen from inside a run; nothing here was measured."""
    if count > 1:
        simulated = numbered(range(count))
    else:
        simulated = gpus() if os.environ.get("CUDA_VISIBLE_DEVICES") is not None else []
    seen = {
        "gpus": simulated,
        "torch": None,
        "attention_backend": "formula",
        "precision": "formula",
        "compile_cache": {"result": "off"},
        "cpu": {"name": "simulated", "cores": os.cpu_count()},
        "python": sys.version.split()[0],
    }
    return {**seen, "environment_id": files.digest([gpu["uuid"] for gpu in simulated], 16)}


def command_line(run: Callable[..., int]) -> int:
    """What these verbs take: `run(config, out, watch_fd, ranks, resume=..., nodes=...)`.

    A fault in the configuration ends with its three parts and code 2.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--watch-fd", type=int)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    try:
        config = fake.load(arguments.config, {})
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 2
    given = config, arguments.out, arguments.watch_fd, arguments.ranks
    return run(*given, resume=arguments.resume, nodes=arguments.nodes)


if __name__ == "__main__":
    sys.exit(command_line(lambda *given, resume, **_: FakeRun(*given, resume=resume).main()))
