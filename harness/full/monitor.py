"""Is a job still on its way? What its events say, held against what was foretold, look by look.

Pure: progress in, alarms and a standing out; the clock and the disk are arguments. Each alarm is
said once for what it is about. What is beyond noise is judged over several looks, because one slow
step of one rank is nothing. After `foretell`, before the launch.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from harness.full.cost import FIELD_FROM_STEP, STRETCH_SD, Cost
from harness.full.forecast import Estimate
from harness.full.loss_envelope import LossEnvelope
from harness.full.preflight import SLOW_SHARE
from harness.results.run_files import Progress

LOOKS = 3  # in a row, some ten seconds each
NOISE_TIMES = 4.0  # and beyond so many times what the others differ by
TIME_SDS = 3.0  # of the forecast of time: it is looked at all along the run, and speaks once
TIME_SHARE = 0.05  # of the run, before its pace says anything
LOADER_SHARE = 0.02  # of a step that waits for its batch
NO_FAULT = frozenset({"sw_power_cap", "applications_clocks_setting", "sync_boost"})
"""Reasons for lower clocks that a GPU at full work has, or that somebody has set."""
SILENT_S = 300.0  # longer than any part of a run goes on without an event
DISK_CHECKPOINTS = 1.5  # room for the next one, and some

Kind = Literal["loss", "slow rank", "throttled", "loader", "disk", "time", "silence"]
Event = dict[str, Any]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be, and what to do. `about`: which rank, which look."""

    kind: Kind
    about: str
    step: int
    got: str
    expected: str
    hint: str

    @property
    def text(self) -> str:
        """One sentence and the hint."""
        return (
            f"step {self.step:,}: {self.kind}: expected {self.expected}; got {self.got}. "
            f"{self.hint}"
        )


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What a job is held against. `spent_s`: of its earlier attempts."""

    steps: int
    ranks: int
    price_usd_per_gpu_hour: float | None = None
    band: LossEnvelope | None = None
    cost: Cost | None = None
    checkpoint_bytes: int | None = None
    spent_s: float = 0.0


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job stands. `expected`: its loss by the band's newest look."""

    step: int
    steps: int
    phase: str
    left_s: float | None
    spent_s: float
    usd: float | None
    train_time_s: float
    loss: float | None
    val_bpb: float | None
    core: float | None
    expected: Estimate | None


class RunMonitor:
    """Follows one attempt of a job. `began_s`: the clock at its start; `said`: alarms before it."""

    def __init__(self, course: Course, *, began_s: float, said: Sequence[Alert] = ()) -> None:
        self.course, self.began_s = course, began_s
        self._said = {(alarm.kind, alarm.about) for alarm in said}
        self._first: tuple[float, int] | None = None  # clock and step of the first look
        self._settled: tuple[int, float] | None = None  # step, training time behind slow steps
        self._ranks_seen = self._looks_seen = 0

    def look(self, progress: Progress, now_s: float, free_bytes: int | None) -> list[Alert]:
        """The alarms that are new."""
        if progress.step and (self._first is None or progress.step < self._first[1]):
            self._first, self._settled = (now_s, progress.step), None  # behind a checkpoint too
        behind = self._first is not None and progress.step >= self._first[1] + FIELD_FROM_STEP
        if self._settled is None and behind:
            self._settled = (progress.step, progress.train_time_s)
        found = [
            *self._of_band(progress),
            *self._of_ranks(progress),
            *disk_alarms(self.course, progress.step, free_bytes),
            *time_alarms(self.course, progress, self._settled),
            *silence_alarms(progress),
        ]
        new = [alarm for alarm in found if (alarm.kind, alarm.about) not in self._said]
        self._said |= {(alarm.kind, alarm.about) for alarm in new}
        return new

    def standing(self, progress: Progress, now_s: float) -> RunStatus:
        """Where it stands."""
        course, spent_s = self.course, self.course.spent_s + now_s - self.began_s
        price = course.price_usd_per_gpu_hour
        look = course.band.at(progress.step / course.steps) if course.band is not None else None
        return RunStatus(
            step=progress.step,
            steps=course.steps,
            phase=progress.phase,
            left_s=self._left_s(progress, now_s),
            spent_s=spent_s,
            usd=None if price is None else price * course.ranks * spent_s / 3600,
            train_time_s=progress.train_time_s,
            loss=progress.loss,
            val_bpb=progress.val_bpb,
            core=progress.core,
            expected=look.loss if look is not None else None,
        )

    def _left_s(self, progress: Progress, now_s: float) -> float | None:
        """By the pace since the first step that was seen, with all that stands between steps; CORE
        comes behind the last."""
        cost, end = self.course.cost, self.course.steps
        if self._first is not None and progress.step > self._first[1]:
            since_s, first = now_s - self._first[0], self._first[1]
            if cost is None:
                return since_s * (end - progress.step) / (progress.step - first)
            slower = since_s / cost.seconds(first, progress.step)
            return slower * cost.seconds(progress.step, end) + dict(cost.parts).get("CORE", 0.0)
        if cost is None:
            return None
        return cost.wall_s.estimate * cost.seconds(progress.step, end) / cost.seconds(0, end)

    def _of_band(self, progress: Progress) -> list[Alert]:
        """Looked at when a planned look has become due, and not in between."""
        band, steps = self.course.band, self.course.steps
        if band is None or not progress.step:
            return []
        due = sum(look.fraction <= progress.step / steps for look in band.looks)
        if due == self._looks_seen:
            return []
        self._looks_seen = due
        points = [(step / steps, loss) for step, loss in progress.losses]
        return loss_alarms(band, points, progress.step)

    def _of_ranks(self, progress: Progress) -> list[Alert]:
        if len(progress.ranks) == self._ranks_seen:
            return []
        self._ranks_seen = len(progress.ranks)
        looks = progress.ranks[-LOOKS:]
        return rank_alarms(looks, progress.step) if len(looks) == LOOKS else []


# --- what the alarms rest on ----------------------------------------------------------------------


def loss_alarms(
    band: LossEnvelope, points: Sequence[tuple[float, float]], step: int
) -> list[Alert]:
    """One for the first look that the loss fails: what comes after follows from it."""
    for outside in band.outside(points)[:1]:
        low, high, unit = outside.expected.low, outside.expected.high, " nats a token"
        if outside.what == "change":
            unit = " times the loss of the look before"
        return [
            Alert(
                kind="loss",
                about="band",
                step=step,
                expected=f"{low:.4f} to {high:.4f}{unit} at {outside.look.fraction:.0%}",
                got=f"{outside.got:.4f}",
                hint="Compare the settings with those of the proxies; stop it while it is cheap.",
            )
        ]
    return []


def rank_alarms(looks: Sequence[Event], step: int) -> list[Alert]:
    """What several looks in a row say of every rank."""
    return [*_slow(looks, step), *_throttled(looks, step), *_loader(looks, step)]


def _slow(looks: Sequence[Event], step: int) -> list[Alert]:
    beyond = [_beyond(look.get("compute_s") or []) for look in looks]
    ranks = set.intersection(*({rank for rank, _ in found} for found in beyond))
    return [
        Alert(
            kind="slow rank",
            about=f"rank {rank}",
            step=step,
            expected="as much time for a rank's own work as the others take",
            got=f"rank {rank} takes {share:.0%} more",
            hint="All wait for it: look at that GPU's clock, heat and neighbours, or take "
            "another machine.",
        )
        for rank in sorted(ranks)
        if (share := min(dict(found)[rank] for found in beyond))
    ]


def _beyond(compute_s: Sequence[float | None]) -> list[tuple[int, float]]:
    """(rank, share beyond the median of the others) where that is more than noise."""
    known = {rank: each for rank, each in enumerate(compute_s) if each}
    found = []
    for rank, own in known.items():
        others = [each for other, each in known.items() if other != rank]
        if not others:
            continue
        median = statistics.median(others)
        spread = statistics.median(abs(each - median) for each in others) / median
        share = own / median - 1
        if share > max(SLOW_SHARE, NOISE_TIMES * spread):
            found.append((rank, share))
    return found


def _throttled(looks: Sequence[Event], step: int) -> list[Alert]:
    held = [_held(look.get("throttled") or []) for look in looks]
    ranks = set.intersection(*(set(found) for found in held))
    return [
        Alert(
            kind="throttled",
            about=f"rank {rank}",
            step=step,
            expected="clocks that nothing holds down",
            got=f"rank {rank}: {', '.join(held[-1][rank])}{_clock(looks[-1], rank)}",
            hint="Look at its heat and power with nvidia-smi -q -d PERFORMANCE,TEMPERATURE.",
        )
        for rank in sorted(ranks)
    ]


def _held(throttled: Sequence[Sequence[str] | None]) -> dict[int, list[str]]:
    faults = {
        rank: [reason for reason in reasons or [] if reason not in NO_FAULT]
        for rank, reasons in enumerate(throttled)
    }
    return {rank: reasons for rank, reasons in faults.items() if reasons}


def _clock(look: Event, rank: int) -> str:
    clocks = look.get("sm_clock_mhz") or []
    mhz = clocks[rank] if rank < len(clocks) else None
    return "" if mhz is None else f", at {mhz:,.0f} MHz"


def _loader(looks: Sequence[Event], step: int) -> list[Alert]:
    shares = [_waiting(look) for look in looks]
    if min(shares) <= LOADER_SHARE:
        return []
    return [
        Alert(
            kind="loader",
            about="wait",
            step=step,
            expected=f"steps that wait for at most {LOADER_SHARE:.0%} of their time",
            got=f"{min(shares):.0%}",
            hint="Put the prepared data on a faster disk; look for others that read from it.",
        )
    ]


def _waiting(look: Event) -> float:
    """The largest share of a step that a rank waits for its batch."""
    waits, works = look.get("loader_wait_s") or [], look.get("compute_s") or []
    return max(
        (wait / (wait + work) for wait, work in zip(waits, works, strict=False) if wait and work),
        default=0.0,
    )


def disk_alarms(course: Course, step: int, free_bytes: int | None) -> list[Alert]:
    """One before a checkpoint finds no room."""
    needs = course.checkpoint_bytes
    if needs is None or free_bytes is None or free_bytes >= DISK_CHECKPOINTS * needs:
        return []
    return [
        Alert(
            kind="disk",
            about="checkpoints",
            step=step,
            expected=f"room for another checkpoint of {needs / 1e9:.1f} GB",
            got=f"{free_bytes / 1e9:.1f} GB free",
            hint="Free some space now: the run goes on, and its next checkpoint may not fit.",
        )
    ]


def silence_alarms(progress: Progress) -> list[Alert]:
    """One where nothing was logged for long, as when ranks wait for one that is gone."""
    if progress.silent_s < SILENT_S:
        return []
    where = f"step {progress.step}" if progress.step else progress.phase or "the start"
    return [
        Alert(
            kind="silence",
            about=f"behind step {progress.step}",
            step=progress.step,
            expected=f"an event every {SILENT_S / 60:.0f} minutes at least",
            got=f"none for {progress.silent_s / 60:.0f}, behind {where}",
            hint="Look at its log.txt and at nvidia-smi. NCCL ends ranks that wait for one that "
            "is gone, after its own time-out; Ctrl-C ends the job, and the same command goes on.",
        )
    ]


def time_alarms(
    course: Course, progress: Progress, settled: tuple[int, float] | None
) -> list[Alert]:
    """One where steps are slower than foretold, by more than a stretch differs from the whole.

    `settled`: step and training time behind the first steps of an attempt, which say nothing.
    """
    if course.cost is None or settled is None:
        return []
    taken = progress.step - settled[0]
    if taken < max(FIELD_FROM_STEP, TIME_SHARE * course.steps):
        return []
    took_s, foretold = progress.train_time_s - settled[1], course.cost.field_s
    projected = foretold.estimate * took_s / course.cost.seconds(settled[0], progress.step)
    most = _at_most(foretold, course.cost.step_sd / math.sqrt(taken))
    if not projected > most:
        return []
    return [
        Alert(
            kind="time",
            about="training",
            step=progress.step,
            expected=f"{foretold.estimate:,.1f} s behind the first steps, {most:,.1f} at most",
            got=f"{projected:,.1f} s at this pace",
            hint="Look for a slow rank, throttled clocks or a stalled loader, which are said "
            "here too.",
        )
    ]


def _at_most(foretold: Estimate, stretch_sd: float) -> float:
    """What a pace may come to: by launch and step test, by the stretch it is of and its noise."""
    half = statistics.NormalDist().inv_cdf((1 + foretold.level) / 2)
    sd = math.log(foretold.high / foretold.estimate) / half
    return foretold.estimate * math.exp(TIME_SDS * math.hypot(sd, STRETCH_SD, stretch_sd))
