"""Speed A/B: two trainers that live at the same time and take turns, A B B A, launch by launch.

A launch starts both trainers afresh, the one or the other first in turn, waits until both have
compiled, and lets them step in turns of at least TURN_S; the one that is not named idles with its
memory held. Each A B B A gives one log ratio of step times, in which a slow drift of the host
cancels. `launches` makes a verdict's error of many of them.

After `pace`, before `gate`; `relay` is the other form, for two that cannot live at once. What a
side does wrong is told apart: a fault that A has too, or that came from outside, is no verdict
on B.
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

TURN_S = 2.0  # a turn is long beside what starting and stopping the clock costs
WINDOWS = 5  # A B B A a launch; more of them say nothing about the next launch
START_LIMIT_S = 1800.0  # a cold compilation of a large model
TURN_LIMIT_S = 600.0
MEMORY_SHARE = 0.9  # of the device, for both together
LOADER_WAIT_SHARE = 0.001  # of step time: beyond it the loader is measured, not the step
TRAJECTORY_STEPS = 20

Name = Literal["A", "B"]
Form = Literal[
    "interleaved", "sequential"
]  # both live at once, or whole processes one after the other


class AbSide(msgspec.Struct, frozen=True, kw_only=True):
    """What is started for a side."""

    name: Name
    trainer: NativeTrainer
    config: dict[str, Any]
    run_limit_s: float = START_LIMIT_S  # of a turn that is a whole run


class AbLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """One launch. Pairs are (A, B). `ratios`: ln(step time B) - ln(step time A), one a window."""

    number: int
    form: Form = "interleaved"
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
    left_out: int = 0  # windows in which a side compiled
    device: str | None = None
    environment_id: str = ""
    on_gpu: bool = False
    seconds: float


class NoRoom(TrainerError):
    """Two trainers that do not fit into one device's memory together."""


class Trouble(Exception):
    """A side that failed: whose fault it is, and what is known of it."""

    def __init__(self, failure: StepperFailed, *, of_b: bool) -> None:
        super().__init__(failure.reason)
        self.failure, self.of_b = failure, of_b


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
    """Starts both, measures, ends both. Raises Trouble, PaceStopped, NoRoom and TrainerError."""
    began = time.monotonic()
    paces: list[StepperProcess] = []
    try:
        _start(number, sides, folder, paces)
        ready = _both_ready(paces, stop)
        a_bytes, b_bytes = (answer.get("reserved_memory_bytes") for answer in ready)
        require_room(a_bytes, b_bytes, _least(ready))
        losses = _trajectories(paces, stop) if trajectory else ([], [])
        turns = _windows(paces, ready, windows, stop, on_window)
        seen = paces[0].environment()
        for pace in paces:
            pace.stop()
    except StepperFailed as failure:
        raise Trouble(failure, of_b=failure.side == "B") from failure
    finally:
        for pace in paces:
            pace.kill()
    return summed(number, "interleaved", ready, turns, losses, seen, time.monotonic() - began)


def _start(
    number: int, sides: tuple[AbSide, AbSide], folder: Path, paces: list[StepperProcess]
) -> None:
    """A first in odd launches, B first in even ones: whoever starts first finds another host."""
    place = folder / f"launch-{number}"
    with files.disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    made = {}
    for side in sides if number % 2 else sides[::-1]:
        config = place / f"{side.name.lower()}.json"
        files.write_json(config, side.config)
        run_dir = place / side.name.lower()
        command = side.trainer.pace_command(config.resolve(), run_dir.resolve())
        made[side.name] = StepperProcess(side.name, command, side.trainer.checkout, run_dir)
        paces.append(made[side.name])
    paces[:] = [made["A"], made["B"]]


def _both_ready(paces: Sequence[StepperProcess], stop: Stop) -> list[Reply]:
    """Where B fails, A is waited for all the same: what A cannot do either is no fault of B."""
    try:
        return wait_for_replies(paces, START_LIMIT_S, stop)
    except StepperFailed as failure:
        if failure.side == "B" and not paces[0].answered:
            wait_for_replies(paces[:1], START_LIMIT_S, stop)
        raise


def require_room(a_bytes: float | None, b_bytes: float | None, device_bytes: float | None) -> None:
    """Raises NoRoom where both together leave the device too little memory, as far as is known."""
    held, there = (a_bytes or 0.0) + (b_bytes or 0.0), device_bytes or math.inf
    if held > MEMORY_SHARE * there:
        raise NoRoom(
            path="memory",
            expected=f"both sides within {MEMORY_SHARE:.0%} of the device's memory",
            got=f"{(a_bytes or 0) / 2**30:.1f} + {(b_bytes or 0) / 2**30:.1f} "
            f"of {there / 2**30:.1f} GiB",
            hint="--ab sequential starts them one after the other; or gate a smaller recipe.",
        )


def _least(ready: Sequence[Reply]) -> float | None:
    known = [answer["device_memory_bytes"] for answer in ready if answer.get("device_memory_bytes")]
    return min(known, default=None)


def _trajectories(paces: Sequence[StepperProcess], stop: Stop) -> tuple[list[float], list[float]]:
    """The losses of the first steps, one side after the other."""
    a, b = (first_losses(pace, stop) for pace in paces)
    return a, b


def first_losses(pace: StepperProcess, stop: Stop) -> list[float]:
    """The losses of the first steps after `ready`, each asked for on its own."""
    return [float(pace.ask("go 1", TURN_LIMIT_S, stop)["loss"]) for _ in range(TRAJECTORY_STEPS)]


def _windows(
    paces: Sequence[StepperProcess],
    ready: Sequence[Reply],
    windows: int,
    stop: Stop,
    on_window: Callable[[int], None],
) -> list[list[Reply]]:
    """The four answers of each A B B A."""
    steps = max(1, math.ceil(TURN_S / min(float(answer["step_s"]) for answer in ready)))
    found = []
    for number in range(1, windows + 1):
        found.append([paces[at].ask(f"go {steps}", TURN_LIMIT_S, stop) for at in (0, 1, 1, 0)])
        on_window(number)
    return found


def summed(
    number: int,
    form: Form,
    ready: Sequence[Reply],
    turns: Sequence[Sequence[Reply]],
    losses: tuple[list[float], list[float]],
    seen: Reply,
    seconds: float,
) -> AbLaunch:
    """A launch from what both sides (A, B) said when ready, and the four turns of each A B B A."""
    whole = [window for window in turns if not any(turn.get("recompiled") for turn in window)]
    if not whole:
        raise TrainerError(
            "",
            "windows in which neither side compiles",
            f"{len(turns)} in which one does",
            "See the log with TORCH_LOGS=recompiles: shapes or guards change at every step.",
        )
    sides = [
        [turn for window in whole for turn in (window[i] for i in places)]
        for places in ((0, 3), (1, 2))
    ]
    return AbLaunch(
        number=number,
        form=form,
        ratios=[_ratio(window) for window in whole],
        step_s=_pair(_step_s(side) for side in sides),
        batch_tokens=_pair(float(answer["batch_tokens"]) for answer in ready),
        loader_wait_share=_pair(_wait_share(side) for side in sides),
        peak_memory_bytes=_pair(_peak(side) for side in sides),
        reserved_memory_bytes=_pair(answer.get("reserved_memory_bytes") for answer in ready),
        device_memory_bytes=_least(ready),
        compile_s=_pair(answer.get("compile_s") for answer in ready),
        losses=losses,
        sm_clock_mhz=_pair(_clock(side) for side in sides),
        left_out=len(turns) - len(whole),
        device=ready[0].get("device"),
        environment_id=str(ready[0].get("environment_id") or ""),
        on_gpu=bool(seen.get("gpus")),
        seconds=seconds,
    )


def _pair(values: Any) -> Any:
    a, b = values
    return a, b


def _ratio(window: Sequence[Reply]) -> float:
    """ln(B) - ln(A) of one A B B A."""
    first, second, third, fourth = (_step_s([turn]) for turn in window)
    return log_ratio(first, second, third, fourth)


def _step_s(turns: Sequence[Reply]) -> float:
    times = [float(step) for turn in turns for step in turn["step_s"]]
    return math.fsum(times) / len(times)


def _wait_share(turns: Sequence[Reply]) -> float:
    waits = [float(wait) for turn in turns for wait in turn["loader_wait_s"]]
    return math.fsum(waits) / math.fsum(float(step) for turn in turns for step in turn["step_s"])


def _peak(turns: Sequence[Reply]) -> float | None:
    peaks = [turn.get("peak_memory_bytes") for turn in turns]
    return max((float(peak) for peak in peaks if peak), default=None)


def _clock(turns: Sequence[Reply]) -> float | None:
    clocks = [float(turn["sm_clock_mhz"]) for turn in turns if turn.get("sm_clock_mhz")]
    return math.fsum(clocks) / len(clocks) if clocks else None
