"""Monitors a run: compares its progress with the forecast and raises alerts.

Each alert is raised once per subject. Anything noisy is decided over several reports of the ranks,
because one slow step of one rank means nothing. Pure: progress in, alerts and a status out; clock
and free disk space are arguments.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from harness.format import percent
from harness.full.cost import FIRST_COUNTED_STEP, STRETCH_SD, Cost
from harness.full.forecast import Estimate
from harness.full.loss_envelope import LossEnvelope
from harness.full.preflight import SLOW_SHARE
from harness.results.run_files import Progress

REPORTS = 3  # of the ranks in a row, about ten seconds each
SPREAD_FACTOR = 4.0  # times the spread of the other ranks
TIME_SDS = 3.0  # of the forecast of time, which is checked throughout the run
TIME_SHARE = 0.05  # of the run, before its speed is checked
LOADER_SHARE = 0.02  # of a step's time, waiting for its batch
NORMAL_REASONS = frozenset({"sw_power_cap", "applications_clocks_setting", "sync_boost"})
"""Reasons for lower clocks of a GPU at full load, or set by the user."""
SILENT_S = 300.0  # longer than any phase of a run without an event
DISK_CHECKPOINTS = 1.5  # free space for the next one, with a margin

Kind = Literal["loss", "slow rank", "throttled", "loader", "disk", "time", "silence"]
Event = dict[str, Any]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A problem of a run and what to do. `subject`: the rank or part concerned."""

    kind: Kind
    subject: str
    step: int
    got: str
    expected: str
    hint: str

    @property
    def text(self) -> str:
        """What happened, what was expected, what to do."""
        return (
            f"step {self.step:,}: {self.kind}: expected {self.expected}; got {self.got}. "
            f"{self.hint}"
        )


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is compared with. `spent_s`: wall time of its earlier attempts."""

    steps: int
    ranks: int
    price_usd_per_gpu_hour: float | None = None
    envelope: LossEnvelope | None = None
    cost: Cost | None = None
    checkpoint_bytes: int | None = None
    spent_s: float = 0.0


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of a run. `expected`: its loss by the last look of the envelope."""

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
    """Monitors one attempt. `began_s`: clock at its start; `raised`: alerts before it."""

    def __init__(
        self, settings: MonitorSettings, *, began_s: float, raised: Sequence[Alert] = ()
    ) -> None:
        self.settings, self.began_s = settings, began_s
        self._raised = {(alert.kind, alert.subject) for alert in raised}
        self._first: tuple[float, int] | None = None  # clock and step of the first check
        self._settled: tuple[int, float] | None = None  # step and time after the slow first steps
        self._ranks_seen = self._looks_seen = 0

    def check(self, progress: Progress, now_s: float, free_bytes: int | None) -> list[Alert]:
        """The new alerts."""
        if progress.step and (self._first is None or progress.step < self._first[1]):
            self._first, self._settled = (now_s, progress.step), None  # also after a restart
        settled = self._first is not None and progress.step >= self._first[1] + FIRST_COUNTED_STEP
        if self._settled is None and settled:
            self._settled = (progress.step, progress.train_time_s)
        alerts = [
            *self._check_loss(progress),
            *self._check_ranks(progress),
            *disk_alerts(self.settings, progress.step, free_bytes),
            *time_alerts(self.settings, progress, self._settled),
            *silence_alerts(progress),
        ]
        new = [alert for alert in alerts if (alert.kind, alert.subject) not in self._raised]
        self._raised |= {(alert.kind, alert.subject) for alert in new}
        return new

    def status(self, progress: Progress, now_s: float) -> RunStatus:
        """Progress, loss, time and money."""
        settings, spent_s = self.settings, self.settings.spent_s + now_s - self.began_s
        price, envelope = settings.price_usd_per_gpu_hour, settings.envelope
        look = envelope.at(progress.step / settings.steps) if envelope is not None else None
        return RunStatus(
            step=progress.step,
            steps=settings.steps,
            phase=progress.phase,
            left_s=self._left_s(progress, now_s),
            spent_s=spent_s,
            usd=None if price is None else price * settings.ranks * spent_s / 3600,
            train_time_s=progress.train_time_s,
            loss=progress.loss,
            val_bpb=progress.val_bpb,
            core=progress.core,
            expected=look.loss if look is not None else None,
        )

    def _left_s(self, progress: Progress, now_s: float) -> float | None:
        """From the speed since the first step, with evaluations; CORE is added at the end."""
        cost, end = self.settings.cost, self.settings.steps
        if self._first is not None and progress.step > self._first[1]:
            since_s, first = now_s - self._first[0], self._first[1]
            if cost is None:
                return since_s * (end - progress.step) / (progress.step - first)
            slower = since_s / cost.seconds(first, progress.step)
            return slower * cost.seconds(progress.step, end) + dict(cost.parts).get("CORE", 0.0)
        if cost is None:
            return None
        return cost.wall_s.estimate * cost.seconds(progress.step, end) / cost.seconds(0, end)

    def _check_loss(self, progress: Progress) -> list[Alert]:
        """Checks the loss when a planned look is due, and not in between."""
        envelope, steps = self.settings.envelope, self.settings.steps
        if envelope is None or not progress.step:
            return []
        due = sum(look.fraction <= progress.step / steps for look in envelope.looks)
        if due == self._looks_seen:
            return []
        self._looks_seen = due
        points = [(step / steps, loss) for step, loss in progress.losses]
        return loss_alerts(envelope, points, progress.step)

    def _check_ranks(self, progress: Progress) -> list[Alert]:
        if len(progress.ranks) == self._ranks_seen:
            return []
        self._ranks_seen = len(progress.ranks)
        reports = progress.ranks[-REPORTS:]
        return rank_alerts(reports, progress.step) if len(reports) == REPORTS else []


# --- the checks -----------------------------------------------------------------------------------


def loss_alerts(
    envelope: LossEnvelope, points: Sequence[tuple[float, float]], step: int
) -> list[Alert]:
    """An alert for the first look at which the loss is outside; later ones follow from it."""
    for outside in envelope.outside(points)[:1]:
        low, high, unit = outside.expected.low, outside.expected.high, " nats per token"
        if outside.what == "change":
            unit = " times the loss of the previous look"
        return [
            Alert(
                kind="loss",
                subject="loss envelope",
                step=step,
                expected=f"{low:.4f} to {high:.4f}{unit} at {percent(outside.look.fraction, 0)}",
                got=f"{outside.got:.4f}",
                hint="Compare the settings with the proxies', and consider stopping the run early.",
            )
        ]
    return []


def rank_alerts(reports: Sequence[Event], step: int) -> list[Alert]:
    """Alerts from several reports of all ranks in a row."""
    return [*_slow(reports, step), *_throttled(reports, step), *_loader(reports, step)]


def _slow(reports: Sequence[Event], step: int) -> list[Alert]:
    excess = [_excess(report.get("compute_s") or []) for report in reports]
    ranks = set.intersection(*(set(ranks) for ranks in excess))
    return [
        Alert(
            kind="slow rank",
            subject=f"rank {rank}",
            step=step,
            expected="the same compute time per step on every rank",
            got=f"rank {rank} takes {percent(share, 0)} more",
            hint="All ranks wait for it: check the clock, temperature and other processes of that "
            "GPU, or use another machine.",
        )
        for rank in sorted(ranks)
        if (share := min(ranks[rank] for ranks in excess))
    ]


def _excess(compute_s: Sequence[float | None]) -> dict[int, float]:
    """Share above the median of the other ranks, by rank, where it exceeds their spread."""
    known = {rank: each for rank, each in enumerate(compute_s) if each}
    excess = {}
    for rank, own in known.items():
        others = [each for other, each in known.items() if other != rank]
        if not others:
            continue
        median = statistics.median(others)
        spread = statistics.median(abs(each - median) for each in others) / median
        share = own / median - 1
        if share > max(SLOW_SHARE, SPREAD_FACTOR * spread):
            excess[rank] = share
    return excess


def _throttled(reports: Sequence[Event], step: int) -> list[Alert]:
    held = [_held(report.get("throttled") or []) for report in reports]
    ranks = set.intersection(*(set(reasons) for reasons in held))
    return [
        Alert(
            kind="throttled",
            subject=f"rank {rank}",
            step=step,
            expected="unthrottled clocks",
            got=f"rank {rank}: {', '.join(held[-1][rank])}{_clock(reports[-1], rank)}",
            hint="Check temperature and power with nvidia-smi -q -d PERFORMANCE,TEMPERATURE.",
        )
        for rank in sorted(ranks)
    ]


def _held(throttled: Sequence[Sequence[str] | None]) -> dict[int, list[str]]:
    faults = {
        rank: [reason for reason in reasons or [] if reason not in NORMAL_REASONS]
        for rank, reasons in enumerate(throttled)
    }
    return {rank: reasons for rank, reasons in faults.items() if reasons}


def _clock(report: Event, rank: int) -> str:
    clocks = report.get("sm_clock_mhz") or []
    mhz = clocks[rank] if rank < len(clocks) else None
    return "" if mhz is None else f", at {mhz:,.0f} MHz"


def _loader(reports: Sequence[Event], step: int) -> list[Alert]:
    shares = [_waiting(report) for report in reports]
    if min(shares) <= LOADER_SHARE:
        return []
    return [
        Alert(
            kind="loader",
            subject="wait",
            step=step,
            expected=f"at most {percent(LOADER_SHARE, 0)} of the step time spent waiting for data",
            got=percent(min(shares), 0),
            hint="Move the prepared data to a faster disk; check for other readers of this disk.",
        )
    ]


def _waiting(report: Event) -> float:
    """The largest share of a step that a rank waits for its batch."""
    waits, works = report.get("loader_wait_s") or [], report.get("compute_s") or []
    return max(
        (wait / (wait + work) for wait, work in zip(waits, works, strict=False) if wait and work),
        default=0.0,
    )


def disk_alerts(settings: MonitorSettings, step: int, free_bytes: int | None) -> list[Alert]:
    """An alert if the next checkpoint may not fit on the disk."""
    needs = settings.checkpoint_bytes
    if needs is None or free_bytes is None or free_bytes >= DISK_CHECKPOINTS * needs:
        return []
    return [
        Alert(
            kind="disk",
            subject="checkpoints",
            step=step,
            expected=f"free space for another checkpoint of {needs / 1e9:.1f} GB",
            got=f"{free_bytes / 1e9:.1f} GB free",
            hint="Free disk space now: the run continues, but its next checkpoint may not fit.",
        )
    ]


def silence_alerts(progress: Progress) -> list[Alert]:
    """An alert if nothing was logged for long, as when ranks wait for a lost one."""
    if progress.silent_s < SILENT_S:
        return []
    where = f"step {progress.step}" if progress.step else progress.phase or "the start"
    return [
        Alert(
            kind="silence",
            subject=f"after step {progress.step}",
            step=progress.step,
            expected=f"an event at least every {SILENT_S / 60:.0f} minutes",
            got=f"none for {progress.silent_s / 60:.0f} minutes, after {where}",
            hint="Check its log.txt and nvidia-smi. NCCL ends ranks that wait for a lost one after "
            "its own time-out. Ctrl-C ends the job; re-run the same command to resume.",
        )
    ]


def time_alerts(
    settings: MonitorSettings, progress: Progress, settled: tuple[int, float] | None
) -> list[Alert]:
    """An alert if steps are slower than forecast, by more than a stretch varies about the whole.

    `settled`: step and training time after the first steps of an attempt, which are not counted.
    """
    cost = settings.cost
    if cost is None or settled is None:
        return []
    taken = progress.step - settled[0]
    if taken < max(FIRST_COUNTED_STEP, TIME_SHARE * settings.steps):
        return []
    took_s, forecast = progress.train_time_s - settled[1], cost.leaderboard_s
    projected = forecast.estimate * took_s / cost.seconds(settled[0], progress.step)
    most = _upper_limit(forecast, cost.step_sd / math.sqrt(taken))
    if not projected > most:
        return []
    return [
        Alert(
            kind="time",
            subject="training",
            step=progress.step,
            expected=f"{forecast.estimate:,.1f} s after the first steps, at most {most:,.1f} s",
            got=f"{projected:,.1f} s at this speed",
            hint="Check for a slow rank, throttled clocks or a stalled loader, which have alerts "
            "of their own.",
        )
    ]


def _upper_limit(forecast: Estimate, stretch_sd: float) -> float:
    """Limit of the projected time, from the spread of launches, stretches and single steps."""
    half = statistics.NormalDist().inv_cdf((1 + forecast.level) / 2)
    sd = math.log(forecast.high / forecast.estimate) / half
    return forecast.estimate * math.exp(TIME_SDS * math.hypot(sd, STRETCH_SD, stretch_sd))
