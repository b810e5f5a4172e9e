"""The verb `pace`: a trainer that stays loaded and steps on request.

The protocol of any trainer's `pace`: `go N`, `same N` and `stop` on stdin; `ready`, `turn` and
`error` events on stdout, one JSON object per line. Step times are drawn, not measured, so an A/B of
seconds has the numbers of one of minutes. Each process has a speed of its own, with the spread
`noise.speed_cv`, and all processes share a host whose speed drifts with the clock.
"""

import json
import math
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import files
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer.machine import Machine
from harness.runner.fake_trainer.train import (
    Curve,
    command_line,
    environment,
    host_drift,
)

LAUNCH_FOLDERS = 3  # the last parts of the run directory's path, which identify a launch
STEP_CV = 0.002  # between the steps of one process
POLL_S = 0.25


class HarnessGone(Exception):
    """The harness has ended."""


class FakePace:
    """One simulated trainer that stays loaded, in one directory."""

    machine_type = Machine

    def __init__(
        self, config: dict[str, Any], out: Path, watch_fd: int | None, ranks: int = 1
    ) -> None:
        self.config, self.out, self.watch_fd, self.ranks = config, out, watch_fd, ranks
        self.machine = self.machine_type(config, ranks)
        self.curve = Curve(config, None, ranks)
        launch = list(out.parts[-LAUNCH_FOLDERS:])
        self.draw = fake.generator(config, launch)
        self.launch_factor = 1 + config["noise"]["speed_cv"] * self.draw.gauss(0, 1)
        self.steps, self.turns = 0, 0
        self.started_s = time.time()

    def main(self) -> int:
        """Replies to requests until `stop`; returns the exit code."""
        self.out.mkdir(parents=True, exist_ok=True)
        seen = environment(self.ranks)
        files.write_json(self.out / "environment.json", seen)
        self.fail_while_building()
        time.sleep(self.config["pace"]["startup_ms"] / 1000)
        self._reply("ready", **self._ready(seen))
        try:
            for request in self._requests():
                if request == "stop":
                    break
                self._handle(request)
        except HarnessGone:
            self._write_result("interrupted", "the harness is gone")
            return 3
        self._write_result("completed", None)
        return 0

    def fail_while_building(self) -> None:
        """Fails before the first turn if the configuration requests it."""
        if self.config["fail"]["crash_at_step"] == 0:
            raise RuntimeError("crashed while it was built, as requested")
        if self.config["fail"]["out_of_memory_at_step"] == 0:
            self._write_result("out_of_memory", "out of memory while it was built, as requested")
            sys.exit(1)

    def fail_at_turn(self, turn: int) -> None:
        """Fails at a turn if the configuration requests it."""
        fail = self.config["fail"]
        if turn == fail["crash_at_step"]:
            raise RuntimeError(f"crashed at turn {turn}, as requested")
        while turn == fail["hang_at_step"]:
            time.sleep(0.05)
        if turn == fail["diverge_at_step"]:
            self._write_result("diverged", "the loss was not finite, as requested")
            sys.exit(1)

    def _ready(self, seen: dict[str, Any]) -> dict[str, Any]:
        memory = self.machine.held_bytes()
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

    def _requests(self) -> Iterator[str]:
        """The lines of stdin. Raises HarnessGone at its end, or when the harness is gone."""
        buffer = b""
        watched = [0] if self.watch_fd is None else [0, self.watch_fd]
        while True:
            ready = select.select(watched, [], [], POLL_S)[0]
            if self.watch_fd in ready:
                raise HarnessGone
            if not ready:
                continue
            chunk = os.read(0, 4096)
            if not chunk:
                raise HarnessGone
            *lines, buffer = (buffer + chunk).split(b"\n")
            yield from (line.decode(errors="replace").strip() for line in lines)

    def _handle(self, request: str) -> None:
        name, _, count = request.partition(" ")
        if name not in ("go", "same") or not count.isdigit() or int(count) == 0:
            hint = "Send one of these requests on a line of its own."
            self._reply("error", expected="`go N`, `same N` or `stop`", got=request, hint=hint)
            return
        self.fail_at_turn(self.turns + 1)
        steps = int(count)
        times = [self._step_s() for _ in range(steps)]
        wait = self.config["plant"]["loader_wait"]
        time.sleep(steps * self.config["pace"]["sleep_ms"] / 1000)
        self.steps, self.turns = self.steps + steps, self.turns + 1
        self._reply(
            "turn",
            steps=steps,
            batches="loader" if name == "go" else "same",
            step_s=times,
            loader_wait_s=[wait * step for step in times],
            sm_clock_mhz=None,
            recompiled=0,
            loss=self.curve.loss(self.steps),
            peak_memory_bytes=self.machine.held_bytes(),
            compute_s_by_rank=self.machine.compute_s(math.fsum(times) / steps),
        )

    def _step_s(self) -> float:
        slower = 1 + host_drift(self.config, time.time()) + STEP_CV * self.draw.gauss(0, 1)
        return float(self.curve.step_s * self.launch_factor * slower)

    def _write_result(self, status: str, reason: str | None) -> None:
        result = {
            "status": status,
            "reason": reason,
            "hint": None,
            "steps": self.steps,
            "tokens": self.steps * self.curve.derived["batch_tokens"],
            "metrics": {},
        }
        files.write_json(self.out / "result.json", result)

    def _reply(self, event: str, **fields: object) -> None:
        print(json.dumps({"event": event, **fields}), flush=True)


def main(pace_type: type[FakePace] = FakePace) -> int:
    """The verb `pace`."""
    return command_line(lambda *arguments, **_: pace_type(*arguments).main())


if __name__ == "__main__":
    sys.exit(main())
