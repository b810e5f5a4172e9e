"""Interleaved A/B: both trainers stay alive and step in alternating segments, A B B A.

A launch starts both trainers afresh (the first one alternates), waits until both have compiled, and
then lets them step in segments of at least SEGMENT_S; the trainer that is not stepping idles with
its memory allocated. Each A B B A window gives one log ratio of step times, in which slow drift of
the host cancels. `stats.ab_noise` turns the ratios of several launches into an interval.

A failure carries the side that caused it, so that a fault which side A shares, or which came from
outside, is never counted against the candidate. `ab_sequential` is the other mode, for two trainers
that do not fit on one device together.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness import files
from harness.errors import TrainerError
from harness.runner.process import Stop
from harness.runner.stepper import Reply, StepperFailed, StepperProcess, wait_for_replies
from harness.runner.trainer import NativeTrainer
from harness.stats.ab_noise import log_ratio

SEGMENT_S = 2.0  # long compared with the cost of starting and stopping the clock
WINDOWS = 5  # A B B A windows per launch; more of them do not narrow the spread between launches
START_TIMEOUT_S = 1800.0  # a cold compilation of a large model
SEGMENT_TIMEOUT_S = 600.0
MEMORY_SHARE = 0.9  # of the device, for both sides together
LOADER_WAIT_SHARE = 0.001  # of step time: above it the data loader is measured, not the step
TRAJECTORY_STEPS = 20

SideName = Literal["A", "B"]
AbMode = Literal["interleaved", "sequential"]


class AbSide(msgspec.Struct, frozen=True, kw_only=True):
    """What is started for one side."""

    name: SideName
    trainer: NativeTrainer
    config: dict[str, Any]
    run_timeout_s: float = START_TIMEOUT_S  # for a segment that is a whole run


class AbLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of both sides. Pairs are (A, B).

    `ratios`: ln(step time of B) - ln(step time of A), one value per A B B A window.
    """

    number: int
    mode: AbMode = "interleaved"
    ratios: list[float]
    step_s: tuple[float, float]
    batch_tokens: tuple[float, float]
    loader_wait_share: tuple[float, float]
    peak_memory_bytes: tuple[float | None, float | None]
    reserved_memory_bytes: tuple[float | None, float | None] = (None, None)  # when ready
    device_memory_bytes: float | None = None
    compile_s: tuple[float | None, float | None]
    losses: tuple[list[float], list[float]] = ([], [])
    sm_clock_mhz: tuple[float | None, float | None] = (None, None)
    dropped_windows: int = 0  # windows in which a side recompiled
    device: str | None = None
    environment_id: str = ""
    on_gpu: bool = False
    seconds: float


class NotEnoughMemory(TrainerError):
    """Both trainers together do not fit into the memory of one device."""


class SideFailed(Exception):
    """A side failed while it was measured. `by_candidate`: B failed, and A did not."""

    def __init__(self, failure: StepperFailed, *, by_candidate: bool) -> None:
        super().__init__(failure.reason)
        self.failure, self.by_candidate = failure, by_candidate


def launch(
    number: int,
    sides: tuple[AbSide, AbSide],
    folder: Path,
    stop: Stop,
    *,
    trajectory: bool = False,
    windows: int = WINDOWS,
    on_window: Callable[[int], None] = lambda _: None,
) -> AbLaunch:
    """Starts both trainers, measures `windows` A B B A windows and ends both.

    `trajectory`: also record the losses of the first TRAJECTORY_STEPS steps.

    Raises:
        SideFailed: a trainer ended or gave a wrong answer.
        NotEnoughMemory: both together exceed MEMORY_SHARE of the device.
        StepperStopped: the user asked to stop.
        TrainerError: a side recompiled in every window.
    """
    started = time.monotonic()
    steppers: list[StepperProcess] = []
    try:
        _start(number, sides, folder, steppers)
        ready = _wait_until_ready(steppers, stop)
        a_bytes, b_bytes = (answer.get("reserved_memory_bytes") for answer in ready)
        check_memory(a_bytes, b_bytes, _smallest_device_bytes(ready))
        losses = _trajectories(steppers, stop) if trajectory else ([], [])
        segments = _measure_windows(steppers, ready, windows, stop, on_window)
        machine = steppers[0].environment()
        for stepper in steppers:
            stepper.stop()
    except StepperFailed as failure:
        raise SideFailed(failure, by_candidate=failure.side == "B") from failure
    finally:
        for stepper in steppers:
            stepper.kill()
    seconds = time.monotonic() - started
    return summarize(number, "interleaved", ready, segments, losses, machine, seconds)


def _start(
    number: int, sides: tuple[AbSide, AbSide], folder: Path, steppers: list[StepperProcess]
) -> None:
    """Starts A first in odd launches and B first in even ones: the order can affect speed."""
    launch_dir = folder / f"launch-{number}"
    with files.disk_errors(launch_dir):
        launch_dir.mkdir(parents=True, exist_ok=True)
    started = {}
    for side in sides if number % 2 else sides[::-1]:
        config = launch_dir / f"{side.name.lower()}.json"
        files.write_json(config, side.config)
        run_dir = launch_dir / side.name.lower()
        command = side.trainer.pace_command(config.resolve(), run_dir.resolve())
        started[side.name] = StepperProcess(side.name, command, side.trainer.checkout, run_dir)
        steppers.append(started[side.name])
    steppers[:] = [started["A"], started["B"]]


def _wait_until_ready(steppers: Sequence[StepperProcess], stop: Stop) -> list[Reply]:
    """Waits for A even where B has failed: if A fails too, the candidate is not at fault."""
    try:
        return wait_for_replies(steppers, START_TIMEOUT_S, stop)
    except StepperFailed as failure:
        if failure.side == "B" and not steppers[0].answered:
            wait_for_replies(steppers[:1], START_TIMEOUT_S, stop)
        raise


def check_memory(a_bytes: float | None, b_bytes: float | None, device_bytes: float | None) -> None:
    """Raises NotEnoughMemory where both sides exceed MEMORY_SHARE of a device of known size."""
    both, device = (a_bytes or 0.0) + (b_bytes or 0.0), device_bytes or math.inf
    if both > MEMORY_SHARE * device:
        raise NotEnoughMemory(
            "memory",
            f"both sides within {MEMORY_SHARE:.0%} of the device's memory",
            f"{(a_bytes or 0) / 2**30:.1f} + {(b_bytes or 0) / 2**30:.1f} "
            f"of {device / 2**30:.1f} GiB",
            "Run them one after the other with --ab sequential, or gate a smaller configuration.",
        )


def _smallest_device_bytes(ready: Sequence[Reply]) -> float | None:
    known = [answer["device_memory_bytes"] for answer in ready if answer.get("device_memory_bytes")]
    return min(known, default=None)


def _trajectories(
    steppers: Sequence[StepperProcess], stop: Stop
) -> tuple[list[float], list[float]]:
    """The losses of the first steps, first of A and then of B."""
    a, b = (first_losses(stepper, stop) for stepper in steppers)
    return a, b


def first_losses(stepper: StepperProcess, stop: Stop) -> list[float]:
    """The losses of the first TRAJECTORY_STEPS steps after `ready`, requested one by one."""
    turns = [stepper.ask("go 1", SEGMENT_TIMEOUT_S, stop) for _ in range(TRAJECTORY_STEPS)]
    return [math.nan if (loss := turn.get("loss")) is None else float(loss) for turn in turns]


def _measure_windows(
    steppers: Sequence[StepperProcess],
    ready: Sequence[Reply],
    windows: int,
    stop: Stop,
    on_window: Callable[[int], None],
) -> list[list[Reply]]:
    """The four answers of each A B B A window."""
    steps = max(1, math.ceil(SEGMENT_S / min(float(answer["step_s"]) for answer in ready)))
    measured = []
    for number in range(1, windows + 1):
        measured.append(
            [steppers[side].ask(f"go {steps}", SEGMENT_TIMEOUT_S, stop) for side in (0, 1, 1, 0)]
        )
        on_window(number)
    return measured


def summarize(
    number: int,
    mode: AbMode,
    ready: Sequence[Reply],
    windows: Sequence[Sequence[Reply]],
    losses: tuple[list[float], list[float]],
    machine: Reply,
    seconds: float,
) -> AbLaunch:
    """A launch from the `ready` answers of (A, B) and the four segments of each A B B A window.

    Windows in which a side recompiled are dropped. Raises TrainerError where none is left.
    """
    kept = [window for window in windows if not any(one.get("recompiled") for one in window)]
    if not kept:
        raise TrainerError(
            "",
            "windows in which neither side recompiles",
            f"a recompilation in all {len(windows)}",
            "Run with TORCH_LOGS=recompiles: shapes or guards change at every step.",
        )
    sides = [
        [segment for window in kept for segment in (window[i] for i in positions)]
        for positions in ((0, 3), (1, 2))
    ]
    return AbLaunch(
        number=number,
        mode=mode,
        ratios=[_window_ratio(window) for window in kept],
        step_s=_pair(_step_s(side) for side in sides),
        batch_tokens=_pair(float(answer["batch_tokens"]) for answer in ready),
        loader_wait_share=_pair(_loader_wait_share(side) for side in sides),
        peak_memory_bytes=_pair(_peak_memory_bytes(side) for side in sides),
        reserved_memory_bytes=_pair(answer.get("reserved_memory_bytes") for answer in ready),
        device_memory_bytes=_smallest_device_bytes(ready),
        compile_s=_pair(answer.get("compile_s") for answer in ready),
        losses=losses,
        sm_clock_mhz=_pair(_sm_clock_mhz(side) for side in sides),
        dropped_windows=len(windows) - len(kept),
        device=ready[0].get("device"),
        environment_id=str(ready[0].get("environment_id") or ""),
        on_gpu=bool(machine.get("gpus")),
        seconds=seconds,
    )


def _pair(values: Any) -> Any:
    a, b = values
    return a, b


def _window_ratio(window: Sequence[Reply]) -> float:
    """ln(step time of B) - ln(step time of A) of one A B B A window."""
    first, second, third, fourth = (_step_s([segment]) for segment in window)
    return log_ratio(first, second, third, fourth)


def _step_s(segments: Sequence[Reply]) -> float:
    times = [float(step) for segment in segments for step in segment["step_s"]]
    return math.fsum(times) / len(times)


def _loader_wait_share(segments: Sequence[Reply]) -> float:
    waits = [float(wait) for segment in segments for wait in segment["loader_wait_s"]]
    steps = [float(step) for segment in segments for step in segment["step_s"]]
    return math.fsum(waits) / math.fsum(steps)


def _peak_memory_bytes(segments: Sequence[Reply]) -> float | None:
    peaks = [segment.get("peak_memory_bytes") for segment in segments]
    return max((float(peak) for peak in peaks if peak), default=None)


def _sm_clock_mhz(segments: Sequence[Reply]) -> float | None:
    clocks = [float(one["sm_clock_mhz"]) for one in segments if one.get("sm_clock_mhz")]
    return math.fsum(clocks) / len(clocks) if clocks else None
