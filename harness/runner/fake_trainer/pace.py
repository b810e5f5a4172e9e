"""`python -m harness.fake.pace --config FILE --out DIR --watch-fd N`: steps when told.

The words of any trainer's pace: `go N`, `same N`, `stop` in; `ready`, `turn`, `error` out, one JSON
object a line. Step times are drawn and not taken, so an A/B of seconds has the numbers of one of
minutes: this process has a speed of its own, of the size `noise.speed_cv`, and shares with every
other one a host that drifts with the clock.
"""

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
from pathlib import Path
from typing import Any

from harness import files
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer import ranks
from harness.runner.fake_trainer.train import Curve, command_line, environment

OWN_FOLDERS = 3  # of the run directory's path: they tell one launch from another
STEP_CV = 0.002  # between steps of one process
LOOK_S = 0.25


class Left(Exception):
    """Nobody is there any more."""


class FakePace:
    """One resident formula in one directory."""

    def __init__(
        self, config: dict[str, Any], out: Path, watch_fd: int | None, ranks: int = 1
    ) -> None:
        self.config, self.out, self.watch_fd, self.ranks = config, out, watch_fd, ranks
        self.curve = Curve(config, None, ranks)
        launch = [fake.identity(config), config["seed"], list(out.parts[-OWN_FOLDERS:])]
        text = files.canonical_json(launch)
        self.draw = random.Random(int(hashlib.sha256(text.encode()).hexdigest()[:16], 16))
        self.own = 1 + config["noise"]["speed_cv"] * self.draw.gauss(0, 1)
        self.steps, self.turns = 0, 0
        self.started_s = time.time()

    def main(self) -> int:
        """Answers until it is told to stop; the exit code."""
        self.out.mkdir(parents=True, exist_ok=True)
        seen = environment(self.ranks)
        files.write_json(self.out / "environment.json", seen)
        if self.config["fail"]["missing_package"]:
            importlib.import_module("a_package_that_nobody_has")
        if self.config["fail"]["crash_at_step"] == 0:
            raise RuntimeError("crashed while it was built, as asked")
        if self.config["fail"]["out_of_memory_at_step"] == 0:
            self._write_result("out_of_memory", "out of memory while it was built, as asked")
            return 1
        time.sleep(self.config["pace"]["startup_ms"] / 1000)
        self._say("ready", **self._ready(seen))
        try:
            for word in self._words():
                if word == "stop":
                    break
                self._obey(word)
        except Left:
            self._write_result("interrupted", "the harness is gone")
            return 3
        self._write_result("completed", None)
        return 0

    def _ready(self, seen: dict[str, Any]) -> dict[str, Any]:
        memory = fake.held_bytes(self.config)
        gpus = seen["gpus"]
        return {
            "startup_s": time.time() - self.started_s,
            "compile_s": 0.0,
            "step_s": self.curve.step_s,
            "peak_memory_bytes": memory,
            "reserved_memory_bytes": memory,
            "device_memory_bytes": fake.DEVICE_BYTES,
            "batch_tokens": self.curve.derived["batch_tokens"],
            "device": gpus[0]["name"] if gpus else seen["cpu"]["name"],
            "environment_id": seen["environment_id"],
            "identity": fake.identity(self.config),
            "ranks": self.ranks,
            "peak_memory_bytes_by_rank": [memory] * self.ranks,
        }

    def _words(self) -> Any:
        """Every word until the end of input. Raises Left when the parent is gone."""
        heard = b""
        watched = [0] if self.watch_fd is None else [0, self.watch_fd]
        while True:
            ready = select.select(watched, [], [], LOOK_S)[0]
            if self.watch_fd in ready:
                raise Left
            if not ready:
                continue
            chunk = os.read(0, 4096)
            if not chunk:
                raise Left
            *lines, heard = (heard + chunk).split(b"\n")
            yield from (line.decode(errors="replace").strip() for line in lines)

    def _obey(self, word: str) -> None:
        name, _, count = word.partition(" ")
        if name not in ("go", "same") or not count.isdigit() or int(count) == 0:
            hint = "Send one of these words on a line of its own."
            self._say("error", expected="`go N`, `same N` or `stop`", got=word, hint=hint)
            return
        self._fail_if_asked()
        steps = int(count)
        times = [self._step_s() for _ in range(steps)]
        wait = self.config["plant"]["loader_wait"]
        time.sleep(steps * self.config["pace"]["sleep_ms"] / 1000)
        self.steps, self.turns = self.steps + steps, self.turns + 1
        self._say(
            "turn",
            steps=steps,
            batches="loader" if name == "go" else "same",
            step_s=times,
            loader_wait_s=[wait * step for step in times],
            sm_clock_mhz=None,
            recompiled=0,
            loss=self.curve.loss(self.steps),
            peak_memory_bytes=fake.held_bytes(self.config),
            compute_s_by_rank=ranks.compute_s(self.config, self.ranks, math.fsum(times) / steps),
        )

    def _step_s(self) -> float:
        noise = self.config["noise"]
        swing = math.sin(2 * math.pi * time.time() / noise["host_drift_period_s"])
        slower = 1 + noise["host_drift"] * swing + STEP_CV * self.draw.gauss(0, 1)
        return float(self.curve.step_s * self.own * slower)

    def _fail_if_asked(self) -> None:
        fail = self.config["fail"]
        if self.turns + 1 == fail["killed_at_step"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.turns + 1 == fail["crash_at_step"]:
            raise RuntimeError(f"crashed at turn {self.turns + 1}, as asked")
        while self.turns + 1 == fail["hang_at_step"]:
            time.sleep(0.05)
        if self.turns + 1 == fail["diverge_at_step"]:
            self._write_result("diverged", "the loss was not finite, as asked")
            sys.exit(1)

    def _write_result(self, status: str, reason: str | None) -> None:
        tokens = self.steps * self.curve.derived["batch_tokens"]
        result = {
            "status": status,
            "reason": reason,
            "hint": None,
            "steps": self.steps,
            "tokens": tokens,
            "metrics": {},
        }
        files.write_json(self.out / "result.json", result)

    def _say(self, event: str, **fields: object) -> None:
        print(json.dumps({"event": event, **fields}), flush=True)


if __name__ == "__main__":
    sys.exit(command_line(lambda *given, **_: FakePace(*given).main()))
