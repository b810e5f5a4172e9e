"""Speed A/B of two trainers that cannot live at once: whole processes, A B B A, launch by launch.

Each turn is a process of its own. It starts, compiles, takes steps that are thrown away, then those
that count, and has ended before the next one starts. A trainer that steps when told is told how
many; of one that cannot be told, a turn is a short run, whose first steps are thrown away.

The four processes of a launch give one log ratio, in which a steady drift of the host cancels, and
nothing is left to tell the noise inside a launch from that between launches. So launches of this
form are judged by their own spread, and teach the noise model under a source of their own.

After `pace` and `ab`, whose `Launch` it makes; before `gate`.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.errors import TrainerError
from harness.gate import ab_interleaved
from harness.gate.ab_interleaved import AbLaunch, AbSide, Name, Trouble
from harness.results import run_files
from harness.results.record import ProcessEnd
from harness.runner.process import Stop, run_process
from harness.runner.stepper import (
    Reply,
    StepperFailed,
    StepperProcess,
    StepperStopped,
    wait_for_replies,
)
from harness.runner.trainer import Request

WARM_UP_S = ab_interleaved.TURN_S  # thrown away: a device that stood idle clocks up again
TURN_S = (
    ab_interleaved.WINDOWS * ab_interleaved.TURN_S
)  # two of them measure a side as long as a resident launch does
TRIES = 3  # as often is a turn taken again in which something was compiled
RUN_WARM_UP_STEPS = 10  # of a run that cannot be told; tokens_per_s leaves out as many
RUN_STEPS = 50


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One process: what it said when ready, its measured steps, its machine, its first losses."""

    ready: Reply
    answer: Reply
    seen: Reply
    losses: list[float] = []
    left_out: int = 0


def launch(
    number: int,
    sides: tuple[AbSide, AbSide],
    folder: Path,
    stop: Stop,
    *,
    trajectory: bool = False,
) -> AbLaunch:
    """Four processes, one after the other. Raises Trouble, PaceStopped and TrainerError.

    A B B A in odd launches and B A A B in even ones, so that no side always has the outer turns.
    """
    began = time.monotonic()
    found: dict[Name, list[Turn]] = {"A": [], "B": []}
    a, b = sides
    for side in (a, b, b, a) if number % 2 else (b, a, a, b):
        turns = found[side.name]
        run_dir = folder / f"launch-{number}" / f"{side.name.lower()}{len(turns) + 1}"
        first = trajectory and not turns
        try:
            turns.append(_turn(side, run_dir, stop, trajectory=first))
        except StepperFailed as failure:
            raise Trouble(failure, of_b=failure.side == "B") from failure
    return _summed(number, found["A"], found["B"], time.monotonic() - began)


def _summed(number: int, a: list[Turn], b: list[Turn], seconds: float) -> AbLaunch:
    compared = min(len(a[0].losses), len(b[0].losses))
    made = ab_interleaved.summed(
        number,
        "sequential",
        [a[0].ready, b[0].ready],
        [[turn.answer for turn in (a[0], b[0], b[1], a[1])]],
        (a[0].losses[:compared], b[0].losses[:compared]),
        a[0].seen,
        seconds,
    )
    return msgspec.structs.replace(made, left_out=sum(turn.left_out for turn in (*a, *b)))


def _turn(side: AbSide, run_dir: Path, stop: Stop, *, trajectory: bool) -> Turn:
    with files.disk_errors(run_dir):
        run_dir.mkdir(parents=True)
    config = run_dir / "config.json"
    files.write_json(config, side.config)
    if side.trainer.paces:
        return _told(side, config.resolve(), run_dir.resolve(), stop, trajectory=trajectory)
    return _ran(side, config.resolve(), run_dir.resolve(), stop)


def launch_seconds(paces: bool, startup_s: float, step_s: float) -> float:
    """What a launch will take, from a start and a step of the recipe."""
    turn_s = WARM_UP_S + max(TURN_S, step_s) if paces else RUN_STEPS * step_s
    return 4 * (startup_s + turn_s)


# --- a trainer that steps when told ---------------------------------------------------------------


def _told(side: AbSide, config: Path, run_dir: Path, stop: Stop, *, trajectory: bool) -> Turn:
    command = side.trainer.pace_command(config, run_dir)
    pace = StepperProcess(side.name, command, side.trainer.checkout, run_dir)
    try:
        (ready,) = wait_for_replies([pace], ab_interleaved.START_LIMIT_S, stop)
        losses = ab_interleaved.first_losses(pace, stop) if trajectory else []
        pace.ask(f"go {_steps(ready, WARM_UP_S)}", ab_interleaved.TURN_LIMIT_S, stop)
        answer, left_out = _measured(pace, _steps(ready, TURN_S), stop)
        seen = pace.environment()
        pace.stop()
    finally:
        pace.kill()
    return Turn(ready=ready, answer=answer, seen=seen, losses=losses, left_out=left_out)


def _steps(ready: Reply, seconds: float) -> int:
    return max(1, math.ceil(seconds / float(ready["step_s"])))


def _measured(pace: StepperProcess, steps: int, stop: Stop) -> tuple[Reply, int]:
    """The first turn in which nothing is compiled, or the last one tried; those left out."""
    answer = pace.ask(f"go {steps}", ab_interleaved.TURN_LIMIT_S, stop)
    left_out = 0
    while answer.get("recompiled") and left_out < TRIES:
        answer, left_out = pace.ask(f"go {steps}", ab_interleaved.TURN_LIMIT_S, stop), left_out + 1
    return answer, left_out


# --- one that cannot be told ----------------------------------------------------------------------


def shortened(side: AbSide) -> AbSide:
    """The side with RUN_STEPS steps and all else as it was; whole where its trainer sets no steps.

    Raises TrainerError where fewer steps would change what a step is.
    """
    path = side.trainer.catalogue().settable_fields.get("steps")
    if path is None:
        return side
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        file = Path(folder) / "config.json"
        files.write_json(file, side.config)
        (whole,) = side.trainer.describe_or_fail([Request(name="whole", base=str(file), set={})])
        if (whole.derived or {}).get("steps", math.inf) <= RUN_STEPS:
            return side
        settings = {**(whole.pins or {}), path: RUN_STEPS}
        short = Request(name="short", base=str(file), set=settings)
        (said,) = side.trainer.describe_or_fail([short])
    batches = [(one.derived or {}).get("batch_tokens") for one in (whole, said)]
    if batches[0] != batches[1]:
        raise TrainerError(
            f"side {side.name}",
            f"a short run with the whole run's {batches[0]} tokens a step",
            str(batches[1]),
            "The trainer's `pins` have to hold its batch when the number of steps is set.",
        )
    return msgspec.structs.replace(side, config=said.config or {})


def _ran(side: AbSide, config: Path, run_dir: Path, stop: Stop) -> Turn:
    ended = run_process(
        command=side.trainer.train_command(config, run_dir),
        run_dir=run_dir,
        checkout=side.trainer.checkout,
        timeout_s=side.run_limit_s,
        stop=stop,
    )
    if stop:
        raise StepperStopped
    result = files.read_json(run_dir / "result.json")
    said: dict[str, Any] = result if isinstance(result, dict) else {}
    if said.get("status") != "completed":
        raise _failed(side, said, ended, run_dir)
    steps = [
        event
        for event in run_files.read_events(run_dir / "events.jsonl")
        if event.get("event") == "step" and event.get("step_s") is not None
    ]
    counted = steps[RUN_WARM_UP_STEPS:]
    if not counted:
        raise TrainerError(
            f"side {side.name}",
            f"a run of more than {RUN_WARM_UP_STEPS} steps, each with its `step_s`",
            f"{len(steps)} of them",
            "Gate a configuration with more steps.",
        )
    return _of_run(said.get("metrics") or {}, steps, counted, run_dir)


def _of_run(
    metrics: dict[str, Any], steps: list[Reply], counted: list[Reply], run_dir: Path
) -> Turn:
    found = files.read_json(run_dir / "environment.json")
    seen: Reply = found if isinstance(found, dict) else {}
    gpus = seen.get("gpus") or [{}]
    ready = {
        "batch_tokens": counted[-1]["tokens"] / counted[-1]["step"],
        "compile_s": metrics.get("compile_s"),
        "device": gpus[0].get("name") or (seen.get("cpu") or {}).get("name"),
        "environment_id": seen.get("environment_id"),
    }
    answer = {
        "step_s": [step["step_s"] for step in counted],
        "loader_wait_s": [step.get("loader_wait_s") or 0.0 for step in counted],
        "peak_memory_bytes": metrics.get("peak_memory_bytes"),
    }
    losses = [float(step["loss"]) for step in steps[: ab_interleaved.TRAJECTORY_STEPS]]
    return Turn(ready=ready, answer=answer, seen=seen, losses=losses)


def _failed(side: AbSide, said: Reply, ended: ProcessEnd, run_dir: Path) -> StepperFailed:
    return StepperFailed(
        side.name,
        str(said.get("reason") or f"it {ended.describe()}"),
        str(said.get("status") or "failed"),
        run_files.log_tail(run_dir / "log.txt"),
        ended.signal is not None,
    )
