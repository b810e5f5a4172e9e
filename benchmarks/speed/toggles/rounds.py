"""Measures tricks beside their base: interleaved rounds of steps in processes that stay alive.

A batch of tricks starts and compiles at once. When the last of them is ready or has failed, base A
and tricks B, C, ... take turns in the order A B C ... C B A, so that every trick has an ABBA
segment with the base, in which a slow drift of the machine cancels, and the base's turns serve all
of them. Nothing starts or ends meanwhile. A trick without room beside the others waits for the next
batch; one that fails beside others is repeated with the base alone, because a failed allocation
does not show which process caused it.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.pace import Pace, answered_or_failed, failure_text
from benchmarks.speed.step import MOST_MEMORY_SHARE, enough_steps, take_turn
from benchmarks.speed.toggles import table
from benchmarks.speed.toggles.plan import Plan, Toggle
from benchmarks.speed.toggles.rows import Noise, Row, Rows, Session, failed_row, row_of
from harness.runner.stepper import Reply, StepperFailed

FEWEST_WINDOWS = 2  # one has no spread
SLACK = 1.5  # what a toggle's turns may take, in --seconds: warming up, steps that do not divide it


@dataclass(kw_only=True)
class Clock:
    """The time left of a call, and the time that starting has taken so far."""

    ends_at: float
    longest_start_s: float = 0.0

    @property
    def left_s(self) -> float:
        return self.ends_at - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Process:
    """A trainer that is ready."""

    pace: Pace
    ready: Reply

    @property
    def held_bytes(self) -> float:
        return float(self.ready["reserved_memory_bytes"])


@dataclass(kw_only=True)
class Waiting:
    """Toggles that have no row yet: to start several at a time, or with the base alone."""

    together: list[Toggle]
    alone: list[Toggle] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.together or self.alone)

    def take(self, most: int) -> list[Toggle]:
        """The next to start at the same time."""
        if not self.together:
            return [self.alone.pop(0)]
        taken, self.together = self.together[:most], self.together[most:]
        return taken


class BaseFailed(Exception):
    """Nothing can be compared any more."""

    def __init__(self, failure: StepperFailed) -> None:
        super().__init__(failure_text(failure))


class Sitting:
    """One call of the command: the base stays, toggles come and go."""

    def __init__(
        self,
        chosen: argparse.Namespace,
        plan: Plan,
        rows: Rows,
        noise_on: Callable[[str], Noise | None],
        folder: Path,
        running: contextlib.ExitStack,
    ) -> None:
        """`noise_on`: what is known of launches on a device. `running` ends what starts here."""
        self.chosen, self.plan, self.rows, self.noise_on = chosen, plan, rows, noise_on
        self.folder, self.running = folder, running
        self.most = chosen.together
        self.started = 0
        self.base: Process | None = None

    def measure(self, toggles: Sequence[Toggle], clock: Clock) -> None:
        """Until each has its row or the time is over. Raises BaseFailed and HarnessError."""
        waiting = Waiting(together=list(toggles))
        while waiting and clock.left_s > clock.longest_start_s + self._around_s(self.most):
            batch = waiting.take(self.most)
            ready = self._fitting(self._ready(batch, waiting, clock), waiting)
            if ready and clock.left_s > self._around_s(len(ready)):
                for toggle, found in self._measured(ready):
                    self._keep(toggle, found, waiting, len(batch))
            for _, process in ready:
                process.pace.kill()

    def _around_s(self, toggles: int) -> float:
        """What the turns of so many may take; half of a toggle's seconds are the base's."""
        return SLACK * float(self.chosen.seconds) * (toggles + 1) / 2

    # starting ---------------------------------------------------------------------------------

    def _ready(
        self, batch: Sequence[Toggle], waiting: Waiting, clock: Clock
    ) -> list[tuple[Toggle, Process]]:
        """Starts a batch, the base with the first one; those that got ready."""
        began = time.monotonic()
        base = [] if self.base else [self._start("the base", self.plan.base.config or {}, 0)]
        possible = [toggle for toggle in batch if toggle.refused is None]
        paces = [self._start(each.name, each.config, each.at_step) for each in possible]
        limit_s = min(60 * self.chosen.ready_minutes, max(0.0, clock.left_s))
        outcomes = answered_or_failed([*base, *paces], limit_s)
        clock.longest_start_s = max(clock.longest_start_s, time.monotonic() - began)
        if clock.left_s <= 0:
            return []  # whoever is silent may only have been too late
        for pace in base:
            outcome = outcomes.pop(0)
            if is_lack_of_memory(outcome) and len(batch) > 1:
                return self._fewer(batch, [pace, *paces], waiting)
            self._stand(pace, outcome)
        for toggle in batch:
            if toggle.refused is not None:
                self._keep(toggle, toggle.refused, waiting, beside=1)
        ready = []
        for toggle, pace, outcome in zip(possible, paces, outcomes, strict=True):
            if isinstance(outcome, StepperFailed):
                self._keep(toggle, outcome, waiting, len(possible))
            else:
                ready.append((toggle, Process(pace=pace, ready=outcome)))
        return ready

    def _fewer(
        self, batch: Sequence[Toggle], paces: Sequence[Pace], waiting: Waiting
    ) -> list[tuple[Toggle, Process]]:
        """The base had no room because too many started beside it: all end, half of them next."""
        for pace in paces:
            pace.kill()
        waiting.together[:0] = batch
        self.most = len(batch) // 2
        text = f"no memory for the base beside {len(batch)}; next with {self.most}"
        print(text, file=sys.stderr, flush=True)
        return []

    def _start(self, name: str, config: Mapping[str, Any], at_step: int) -> Pace:
        self.started += 1
        file = self.folder / f"{self.started}.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        arguments = ["--at-step", str(at_step), *(["--synthetic"] if self.chosen.synthetic else [])]
        pace = Pace(name, file, [], self.folder / str(self.started), arguments=arguments)
        self.running.callback(pace.kill)
        return pace

    def _stand(self, pace: Pace, outcome: Reply | StepperFailed) -> None:
        """The base is ready: writes base, machine and noise to the file of rows."""
        if isinstance(outcome, StepperFailed):
            raise BaseFailed(outcome)
        identity = self.plan.base.identity
        assert identity is not None, "a described base has an identity"
        self.rows.open(
            Session(
                base=self.chosen.base.stem,
                set=self.chosen.set,
                config_id=identity.config_id,
                code_id=identity.code_id,
                synthetic=self.chosen.synthetic,
                seconds=self.chosen.seconds,
                planned=[toggle.name for toggle in self.plan.toggles],
                device=outcome["device"],
                environment_id=outcome["environment_id"],
                torch=pace.file("environment.json")["torch"],
                kernel_plan=outcome["kernel_plan"],
                batch_tokens=outcome["batch_tokens"],
                noise=self.noise_on(outcome["device"]),
            )
        )
        self.base = Process(pace=pace, ready=outcome)

    def _fitting(
        self, ready: Sequence[tuple[Toggle, Process]], waiting: Waiting
    ) -> list[tuple[Toggle, Process]]:
        """Those that leave the device a tenth of its memory; the others end, and wait again."""
        if self.base is None:
            return []
        room = MOST_MEMORY_SHARE * float(self.base.ready["device_memory_bytes"])
        fits = with_room(self.base.held_bytes, room, [each.held_bytes for _, each in ready])
        fitting = [pair for pair, fit in zip(ready, fits, strict=True) if fit]
        for (toggle, process), fit in zip(ready, fits, strict=True):
            if fit:
                continue
            process.pace.kill()
            if fitting:
                waiting.together.append(toggle)
                self.most = len(fitting)
            else:
                both = f"{self.base.held_bytes / 1e9:.1f} + {process.held_bytes / 1e9:.1f} GB"
                reason = f"no room beside the base: {both} of {room / 1e9:.1f} GB"
                self._keep(toggle, reason, waiting, beside=1)
        return fitting

    # measuring --------------------------------------------------------------------------------

    def _keep(
        self, toggle: Toggle, found: Row | StepperFailed | str, waiting: Waiting, beside: int
    ) -> None:
        """A row for what was found; or one more try with the base alone, if it was not alone."""
        if isinstance(found, Row):
            self.rows.add(found)
            text = found.failed or table.effect_text(found, self.rows.noise)
        elif beside > 1:
            waiting.alone.append(toggle)
            text = f"will be tried with the base alone: {found}"
        else:
            self.rows.add(failed_row(toggle, str(found)))
            text = failure_text(found) if isinstance(found, StepperFailed) else found
        print(f"{toggle.name}: {text}", file=sys.stderr, flush=True)

    def _measured(
        self, ready: Sequence[tuple[Toggle, Process]]
    ) -> Iterator[tuple[Toggle, Row | StepperFailed]]:
        """What came of the turns of each. Raises BaseFailed."""
        assert self.base is not None, "toggles are measured beside the base"
        windows, failures = self._windows(self.base, [process for _, process in ready])
        for (toggle, process), own, failure in zip(ready, windows, failures, strict=True):
            yield toggle, failure or row_of(toggle, self.base.ready, process.ready, own)

    def _windows(
        self, base: Process, toggles: Sequence[Process]
    ) -> tuple[list[list[list[Reply]]], list[StepperFailed | None]]:
        """The answers of each toggle's A B B A, as many as come nearest to --seconds, and how it
        failed where it did. Who fails leaves the round, and the others begin it anew."""
        turn_s = self.chosen.turn_seconds
        windows: list[list[list[Reply]]] = [[] for _ in toggles]
        failures: list[StepperFailed | None] = [None] * len(toggles)
        steps: dict[str, int] = {}

        def turn(process: Process) -> Reply:
            pace = process.pace
            if pace.side not in steps:
                steps[pace.side] = enough_steps(pace, process.ready["step_s"], turn_s)
            return take_turn(pace, "go", steps[pace.side], turn_s)

        while rest := [at for at, failure in enumerate(failures) if failure is None]:
            if all(self._is_enough(windows[at]) for at in rest):
                break
            try:
                there = [turn(each) for each in (base, *(toggles[at] for at in rest))]
                back = [turn(each) for each in (*(toggles[at] for at in reversed(rest)), base)]
            except StepperFailed as failure:
                if failure.side == base.pace.side:
                    raise BaseFailed(failure) from failure
                failures[_place(failure.side, toggles)] = failure
                continue
            for place, at in enumerate(rest, start=1):
                windows[at].append([there[0], there[place], back[-1 - place], back[-1]])
        return windows, failures

    def _is_enough(self, windows: Sequence[Sequence[Reply]]) -> bool:
        """Whether one more A B B A would lead further beyond --seconds than it lacks now."""
        if len(windows) < FEWEST_WINDOWS:
            return False
        spent_s = math.fsum(s for window in windows for turn in window for s in turn["step_s"])
        return spent_s * (1 + 0.5 / len(windows)) >= float(self.chosen.seconds)


def _place(side: str, toggles: Sequence[Process]) -> int:
    """Which of the toggles it is."""
    return [each.pace.side for each in toggles].index(side)


def is_lack_of_memory(outcome: Reply | StepperFailed) -> bool:
    """Whether a trainer failed for lack of memory, which any of the processes may have taken."""
    return isinstance(outcome, StepperFailed) and outcome.status == "out_of_memory"


def with_room(held_bytes: float, room_bytes: float, wanted_bytes: Sequence[float]) -> list[bool]:
    """Which of those that want memory stay within the room, first come, first served."""
    found = []
    for wanted in wanted_bytes:
        found.append(held_bytes + wanted <= room_bytes)
        held_bytes += wanted if found[-1] else 0
    return found
