"""Speed A/B: two trainers that live at the same time and take turns, A B B A, launch by launch.

A launch starts both trainers afresh, the one or the other first in turn, waits until both have
compiled, and lets them step in turns of at least TURN_S; the one that is not named idles with its
memory held. Each A B B A gives one log ratio of step times, in which a slow drift of the host
cancels. `launches` makes a verdict's error of many of them.

After `pace`, before `gate`. What a side does wrong is told apart: a fault that A has too, or that
came from outside, is no verdict on B.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness import atomic
from harness.errors import TrainerError
from harness.launches import log_ratio
from harness.pace import Answer, Pace, PaceFailed, answers
from harness.run import Stop
from harness.trainer import NativeTrainer

TURN_S = 2.0  # a turn is long beside what starting and stopping the clock costs
WINDOWS = 5  # A B B A a launch; more of them say nothing about the next launch
START_LIMIT_S = 1800.0  # a cold compilation of a large model
TURN_LIMIT_S = 600.0
MEMORY_SHARE = 0.9  # of the device, for both together
LOADER_WAIT_SHARE = 0.001  # of step time: beyond it the loader is measured, not the step
TRAJECTORY_STEPS = 20

Name = Literal["A", "B"]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What is started for a side."""

    name: Name
    trainer: NativeTrainer
    config: dict[str, Any]


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One launch. Pairs are (A, B). `ratios`: ln(step time B) - ln(step time A), one a window."""

    number: int
    ratios: list[float]
    step_s: tuple[float, float]
    batch_tokens: tuple[float, float]
    loader_wait_share: tuple[float, float]
    peak_memory_bytes: tuple[float | None, float | None]
    compile_s: tuple[float | None, float | None]
    losses: tuple[list[float], list[float]] = ([], [])
    sm_clock_mhz: tuple[float | None, float | None] = (None, None)
    left_out: int = 0  # windows in which a side compiled
    device: str | None = None
    environment_id: str = ""
    on_gpu: bool = False
    seconds: float


class Trouble(Exception):
    """A side that failed: whose fault it is, and what is known of it."""

    def __init__(self, failure: PaceFailed, *, of_b: bool) -> None:
        super().__init__(failure.reason)
        self.failure, self.of_b = failure, of_b


def launch(
    number: int,
    sides: tuple[Side, Side],
    folder: Path,
    stop: Stop,
    *,
    trajectory: bool = False,
    windows: int = WINDOWS,
    on_window: Callable[[int], None] = lambda _: None,
) -> Launch:
    """Starts both, measures, ends both. Raises Trouble, PaceStopped and TrainerError."""
    began = time.monotonic()
    paces: list[Pace] = []
    try:
        _start(number, sides, folder, paces)
        ready = _both_ready(paces, stop)
        _require_room(ready)
        losses = _trajectories(paces, stop) if trajectory else ([], [])
        turns = _windows(paces, ready, windows, stop, on_window)
        seen = paces[0].environment()
        for pace in paces:
            pace.stop()
    except PaceFailed as failure:
        raise Trouble(failure, of_b=failure.side == "B") from failure
    finally:
        for pace in paces:
            pace.kill()
    return _summed(number, ready, turns, losses, seen, time.monotonic() - began)


def _start(number: int, sides: tuple[Side, Side], folder: Path, paces: list[Pace]) -> None:
    """A first in odd launches, B first in even ones: whoever starts first finds another host."""
    place = folder / f"launch-{number}"
    with atomic.disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    made = {}
    for side in sides if number % 2 else sides[::-1]:
        config = place / f"{side.name.lower()}.json"
        atomic.write_json(config, side.config)
        run_dir = place / side.name.lower()
        command = side.trainer.pace_command(config.resolve(), run_dir.resolve())
        made[side.name] = Pace(side.name, command, side.trainer.checkout, run_dir)
        paces.append(made[side.name])
    paces[:] = [made["A"], made["B"]]


def _both_ready(paces: Sequence[Pace], stop: Stop) -> list[Answer]:
    """Where B fails, A is waited for all the same: what A cannot do either is no fault of B."""
    try:
        return answers(paces, START_LIMIT_S, stop)
    except PaceFailed as failure:
        if failure.side == "B" and not paces[0].answered:
            answers(paces[:1], START_LIMIT_S, stop)
        raise


def _require_room(ready: Sequence[Answer]) -> None:
    """Raises TrainerError where both together leave the device too little memory."""
    held = sum(float(answer.get("reserved_memory_bytes") or 0) for answer in ready)
    there = min(float(answer.get("device_memory_bytes") or math.inf) for answer in ready)
    if held > MEMORY_SHARE * there:
        raise TrainerError(
            path="memory",
            expected=f"both sides within {MEMORY_SHARE:.0%} of {there / 2**30:.1f} GiB",
            got=f"{held / 2**30:.1f} GiB",
            remedy="Gate a smaller recipe, or lower the rows that a pass holds, on both sides.",
        )


def _trajectories(paces: Sequence[Pace], stop: Stop) -> tuple[list[float], list[float]]:
    """The losses of the first steps, one side after the other."""
    a, b = (
        [float(pace.ask("go 1", TURN_LIMIT_S, stop)["loss"]) for _ in range(TRAJECTORY_STEPS)]
        for pace in paces
    )
    return a, b


def _windows(
    paces: Sequence[Pace],
    ready: Sequence[Answer],
    windows: int,
    stop: Stop,
    on_window: Callable[[int], None],
) -> list[list[Answer]]:
    """The four answers of each A B B A."""
    steps = max(1, math.ceil(TURN_S / min(float(answer["step_s"]) for answer in ready)))
    found = []
    for number in range(1, windows + 1):
        found.append([paces[at].ask(f"go {steps}", TURN_LIMIT_S, stop) for at in (0, 1, 1, 0)])
        on_window(number)
    return found


def _summed(
    number: int,
    ready: Sequence[Answer],
    turns: Sequence[Sequence[Answer]],
    losses: tuple[list[float], list[float]],
    seen: Answer,
    seconds: float,
) -> Launch:
    whole = [window for window in turns if not any(turn.get("recompiled") for turn in window)]
    if not whole:
        raise TrainerError(
            expected="windows in which neither side compiles",
            got=f"{len(turns)} in which one does",
            remedy="See the log with TORCH_LOGS=recompiles: shapes or guards change at every step.",
        )
    sides = [
        [turn for window in whole for turn in (window[i] for i in places)]
        for places in ((0, 3), (1, 2))
    ]
    return Launch(
        number=number,
        ratios=[_ratio(window) for window in whole],
        step_s=_pair(_step_s(side) for side in sides),
        batch_tokens=_pair(float(answer["batch_tokens"]) for answer in ready),
        loader_wait_share=_pair(_wait_share(side) for side in sides),
        peak_memory_bytes=_pair(_peak(side) for side in sides),
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


def _ratio(window: Sequence[Answer]) -> float:
    """ln(B) - ln(A) of one A B B A."""
    first, second, third, fourth = (_step_s([turn]) for turn in window)
    return log_ratio(first, second, third, fourth)


def _step_s(turns: Sequence[Answer]) -> float:
    times = [float(step) for turn in turns for step in turn["step_s"]]
    return math.fsum(times) / len(times)


def _wait_share(turns: Sequence[Answer]) -> float:
    waits = [float(wait) for turn in turns for wait in turn["loader_wait_s"]]
    return math.fsum(waits) / math.fsum(float(step) for turn in turns for step in turn["step_s"])


def _peak(turns: Sequence[Answer]) -> float | None:
    peaks = [turn.get("peak_memory_bytes") for turn in turns]
    return max((float(peak) for peak in peaks if peak), default=None)


def _clock(turns: Sequence[Answer]) -> float | None:
    clocks = [float(turn["sm_clock_mhz"]) for turn in turns if turn.get("sm_clock_mhz")]
    return math.fsum(clocks) / len(clocks) if clocks else None
