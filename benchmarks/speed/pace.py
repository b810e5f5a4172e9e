"""A `model.pace` child process for a benchmark, on top of `harness.runner.stepper`.

Adds what a benchmark needs: reading what the run wrote, the check that the child ended as
completed, and errors with the name of the child, the reason and the end of its log.
"""

import json
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.runner import stepper
from harness.runner.process import Stop
from harness.runner.stepper import Reply, StepperFailed

CHECKOUT = Path(__file__).parents[2]
NEVER = Stop()  # a benchmark is stopped by Ctrl-C, which raises


class Pace(stepper.StepperProcess):
    """One child in `folder`, which holds its run directory and its log."""

    def __init__(
        self,
        name: str,
        base: Path,
        overrides: Sequence[str],
        folder: Path,
        *,
        arguments: Sequence[str] = (),
    ) -> None:
        """Starts it."""
        folder.mkdir(parents=True)
        run_dir = folder / "run"
        command = [sys.executable, "-m", "model.pace"]
        command += ["--config", str(base.resolve()), "--out", str(run_dir), *arguments]
        command += [part for override in overrides for part in ("--set", override)]
        self.started_at = time.time()
        super().__init__(name, command, CHECKOUT, run_dir)

    def ask(self, word: str, timeout_s: float, stop: Stop = NEVER) -> Reply:
        """The answer to a command. Raises StepperFailed."""
        return super().ask(word, timeout_s, stop)

    def file(self, name: str) -> Any:
        """A JSON file of the run directory; null where there is none."""
        path = self.run_dir / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def events(self) -> list[Reply]:
        """The run's events so far."""
        text = (self.run_dir / "events.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def stop(self) -> None:
        """Ends it. Raises StepperFailed where it does not end as completed."""
        super().stop()
        result = self.file("result.json")
        if result is None or result["status"] != "completed":
            raise self.failed("did not end on request")


def first_answers(paces: Sequence[Pace], timeout_s: float) -> list[Reply]:
    """One answer of each child. Raises StepperFailed."""
    return stepper.wait_for_replies(paces, timeout_s, NEVER)


def answered_or_failed(paces: Sequence[Pace], timeout_s: float) -> list[Reply | StepperFailed]:
    """The answer or the failure of each child.

    A child without an answer after `timeout_s` has failed. Failed children are killed, the others
    continue.
    """
    found: dict[Pace, Reply | StepperFailed] = {}
    deadline = time.monotonic() + timeout_s
    while (waiting := [p for p in paces if p not in found]) and time.monotonic() < deadline:
        for child in select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))[0]:
            outcome = _taken(child)
            if outcome is not None:
                found[child] = outcome
    for child in waiting:
        found[child] = child.failed(f"gave no answer in {timeout_s:.0f} s")
        child.kill()
    return [found[child] for child in paces]


def _taken(child: Pace) -> Reply | StepperFailed | None:
    """A whole answer, a failure, or nothing yet."""
    try:
        return child.take()
    except StepperFailed as failure:
        child.kill()
        return failure


def failure_text(error: StepperFailed) -> str:
    """The message of a failure, with the end of the log."""
    lines = (error.log or "").strip().splitlines()
    return "\n".join([f"{error.side}: {error}", *(f"  | {line}" for line in lines)])
