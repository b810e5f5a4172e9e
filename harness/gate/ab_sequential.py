"""Sequential A/B: whole processes one after the other, A B B A, for trainers that cannot run at the
same time.

Each segment is a process of its own. It starts, compiles, takes warm-up steps that are discarded,
then the measured steps, and ends before the next one starts. A trainer that supports `pace` takes
as many steps as it is sent; for any other, a segment is a short run without its first steps.

The four processes of a launch give one log ratio, in which a steady drift of the host cancels.
Noise inside a launch cannot be separated from noise between launches, so launches of this mode are
judged by their own spread and have their own rows in the noise model.
"""

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from harness import files
from harness.errors import TrainerError
from harness.gate import ab_interleaved
from harness.gate.ab_interleaved import SEGMENT_TIMEOUT_S, AbLaunch, AbSide, SideFailed, SideName
from harness.results import run_files
from harness.results.recipe import device_name
from harness.results.record import Outcome, ProcessEnd, outcome_of
from harness.runner.process import Stop, run_process
from harness.runner.replies import Request
from harness.runner.stepper import (
    Reply,
    StepperFailed,
    StepperProcess,
    StepperStopped,
    wait_for_replies,
)

WARM_UP_S = ab_interleaved.SEGMENT_S  # discarded: an idle device first has to raise its clocks
SEGMENT_S = (
    ab_interleaved.WINDOWS * ab_interleaved.SEGMENT_S
)  # two segments measure a side for as long as an interleaved launch does
MAX_REPEATS = 3  # of a segment in which the trainer recompiled
RUN_WARM_UP_STEPS = 10  # of a run that cannot step on command; tokens_per_s discards as many
RUN_STEPS = 50


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One process: its `ready` answer, its measured steps, its machine and its first losses."""

    ready: Reply
    answer: Reply
    machine: Reply
    losses: list[float] = []
    dropped: int = 0


def launch(
    number: int,
    sides: tuple[AbSide, AbSide],
    folder: Path,
    stop: Stop,
    *,
    trajectory: bool = False,
) -> AbLaunch:
    """Runs four processes one after the other. Raises SideFailed, StepperStopped and TrainerError.

    A B B A in odd launches and B A A B in even ones, so that no side always has the outer segments.
    """
    started = time.monotonic()
    segments: dict[SideName, list[Segment]] = {"A": [], "B": []}
    a, b = sides
    for side in (a, b, b, a) if number % 2 else (b, a, a, b):
        done = segments[side.name]
        run_dir = folder / f"launch-{number}" / f"{side.name.lower()}{len(done) + 1}"
        try:
            done.append(_segment(side, run_dir, stop, trajectory=trajectory and not done))
        except StepperFailed as failure:
            raise SideFailed(failure, by_candidate=failure.side == "B") from failure
    return _summarize(number, segments["A"], segments["B"], time.monotonic() - started)


def _summarize(number: int, a: list[Segment], b: list[Segment], seconds: float) -> AbLaunch:
    compared = min(len(a[0].losses), len(b[0].losses))
    summary = ab_interleaved.summarize(
        number,
        "sequential",
        [a[0].ready, b[0].ready],
        [[segment.answer for segment in (a[0], b[0], b[1], a[1])]],
        (a[0].losses[:compared], b[0].losses[:compared]),
        a[0].machine,
        seconds,
    )
    dropped = sum(segment.dropped for segment in (*a, *b))
    return msgspec.structs.replace(summary, dropped_windows=dropped)


def _segment(side: AbSide, run_dir: Path, stop: Stop, *, trajectory: bool) -> Segment:
    with files.disk_errors(run_dir):
        run_dir.mkdir(parents=True)
    config = run_dir / "config.json"
    files.write_json(config, side.config)
    if side.trainer.paces:
        return _stepped(side, config.resolve(), run_dir.resolve(), stop, trajectory=trajectory)
    return _short_run(side, config.resolve(), run_dir.resolve(), stop)


def launch_seconds(paces: bool, startup_s: float, step_s: float) -> float:
    """The expected duration of a launch, from the start-up and step time of the configuration."""
    segment_s = WARM_UP_S + max(SEGMENT_S, step_s) if paces else RUN_STEPS * step_s
    return 4 * (startup_s + segment_s)


# --- trainers that step on command ----------------------------------------------------------------


def _stepped(side: AbSide, config: Path, run_dir: Path, stop: Stop, *, trajectory: bool) -> Segment:
    command = side.trainer.pace_command(config, run_dir)
    stepper = StepperProcess(side.name, command, side.trainer.checkout, run_dir)
    try:
        (ready,) = wait_for_replies([stepper], ab_interleaved.START_TIMEOUT_S, stop)
        losses = ab_interleaved.first_losses(stepper, stop) if trajectory else []
        stepper.ask(f"go {_steps(ready, WARM_UP_S)}", SEGMENT_TIMEOUT_S, stop)
        answer, dropped = _measured(stepper, _steps(ready, SEGMENT_S), stop)
        machine = stepper.environment()
        stepper.stop()
    finally:
        stepper.kill()
    return Segment(ready=ready, answer=answer, machine=machine, losses=losses, dropped=dropped)


def _steps(ready: Reply, seconds: float) -> int:
    return max(1, math.ceil(seconds / float(ready["step_s"])))


def _measured(stepper: StepperProcess, steps: int, stop: Stop) -> tuple[Reply, int]:
    """The first segment without a recompilation, or the last one tried, and how many it dropped."""
    dropped = 0
    answer = stepper.ask(f"go {steps}", SEGMENT_TIMEOUT_S, stop)
    while answer.get("recompiled") and dropped < MAX_REPEATS:
        answer, dropped = stepper.ask(f"go {steps}", SEGMENT_TIMEOUT_S, stop), dropped + 1
    return answer, dropped


# --- trainers that only run -----------------------------------------------------------------------


def shortened(side: AbSide) -> AbSide:
    """The side with RUN_STEPS steps; unchanged where its trainer has no setting for them.

    Raises TrainerError where fewer steps would change the batch.
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
        request = Request(name="short", base=str(file), set=settings)
        (short,) = side.trainer.describe_or_fail([request])
    batches = [(one.derived or {}).get("batch_tokens") for one in (whole, short)]
    if batches[0] != batches[1]:
        raise TrainerError(
            f"side {side.name}",
            f"a short run with {batches[0]} tokens per step, as in the whole run",
            str(batches[1]),
            "Add the batch size to the trainer's `pins`, so that it stays when steps are set.",
        )
    return msgspec.structs.replace(side, config=short.config or {})


def _short_run(side: AbSide, config: Path, run_dir: Path, stop: Stop) -> Segment:
    ended = run_process(
        command=side.trainer.train_command(config, run_dir),
        run_dir=run_dir,
        checkout=side.trainer.checkout,
        timeout_s=side.run_timeout_s,
        stop=stop,
    )
    if stop:
        raise StepperStopped
    outcome = outcome_of(run_dir, ended)
    if outcome.status != "completed":
        raise _failure(side, outcome, ended, run_dir)
    steps = [
        event
        for event in run_files.read_events(run_dir / "events.jsonl")
        if event["event"] == "step" and all(event.get(key) for key in ("step", "step_s", "tokens"))
    ]
    if len(steps) <= RUN_WARM_UP_STEPS:
        raise TrainerError(
            f"side {side.name}",
            f"a run of more than {RUN_WARM_UP_STEPS} steps, each with its `tokens` and `step_s`",
            f"{len(steps)} of them",
            "Gate a configuration with more steps.",
        )
    return _segment_of_run(outcome.metrics, steps, run_dir)


def _segment_of_run(
    metrics: Mapping[str, float | None], steps: list[Reply], run_dir: Path
) -> Segment:
    content = files.read_json(run_dir / "environment.json")
    machine: Reply = content if isinstance(content, dict) else {}
    measured = steps[RUN_WARM_UP_STEPS:]
    ready = {
        "batch_tokens": measured[-1]["tokens"] / measured[-1]["step"],
        "compile_s": metrics.get("compile_s"),
        "device": device_name(machine),
        "environment_id": machine.get("environment_id"),
    }
    answer = {
        "step_s": [step["step_s"] for step in measured],
        "loader_wait_s": [step.get("loader_wait_s") or 0.0 for step in measured],
        "peak_memory_bytes": metrics.get("peak_memory_bytes"),
    }
    first = steps[: ab_interleaved.TRAJECTORY_STEPS]
    losses = [math.nan if (loss := step.get("loss")) is None else float(loss) for step in first]
    return Segment(ready=ready, answer=answer, machine=machine, losses=losses)


def _failure(side: AbSide, outcome: Outcome, ended: ProcessEnd, run_dir: Path) -> StepperFailed:
    return StepperFailed(
        side.name,
        outcome.reason or f"it {ended.describe()}",
        outcome.status,
        run_files.log_tail(run_dir / "log.txt"),
        ended.signal is not None,
    )
