"""Whose speeds may be compared: runs of one machine in one session.

The same code differs by more between hosts, and between sessions of one host, than most changes are
worth. Records of a store have the boot they ran on. Logs do not, and equal bus ids name a server
model and not a server; so runs of logs share a session only if those of both sides overlap or
alternate in time, without a gap of more than an hour. Elsewhere the SD between hosts belongs to the
error of a speed, for gains as for losses. Pure.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from harness.comparison.comparability import Runs
from harness.results.logs.run_log import LoggedRun
from harness.stats.decision import Difference
from harness.stats.inference import Contrast
from harness.stats.regression import fit_blocks

Environment = tuple[tuple[str, str], ...]
SESSION = "session"
GAP_S = 3600.0


class SpeedRuns(NamedTuple):
    """The runs whose speeds are compared. `sides`: None where it is refused. `reason`: why they
    decide nothing. `apart`: why the sides count as run in different sessions."""

    sides: tuple[Runs, Runs] | None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    apart: str | None = None


def environment_of(run: LoggedRun) -> Environment:
    """The environment of a run as one value."""
    return tuple(sorted(run.environment.items()))


def speed_runs(name: str, a: Runs, b: Runs) -> SpeedRuns:
    """The runs of both sides whose speeds may be compared in a metric."""
    measured = [[run for run in side if name in run.metrics] for side in (a, b)]
    keys = [{environment_of(run) for run in side} for side in measured]
    shared = keys[0] & keys[1]
    if not shared:
        return SpeedRuns(None, "refused: " + _differing(measured[0], measured[1]))
    kept = [[run for run in side if environment_of(run) in shared] for side in measured]
    notes = []
    if sum(map(len, kept)) < sum(map(len, measured)):
        notes.append("only runs of environments that both sides have are compared")
    sides = (kept[0], kept[1])
    if not all(run.environment_known for side in kept for run in side):
        reason = "unknown environment: the logs do not identify the machine"
        return SpeedRuns(sides, reason, tuple(notes))
    if all(SESSION in run.environment for side in kept for run in side):
        if first := _first(*sides):
            notes.append(f"not interleaved: all of {first} ran first, so the host may have drifted")
        return SpeedRuns(sides, None, tuple(notes))
    return _of_logs(sides, notes)


def _of_logs(sides: tuple[Runs, Runs], notes: list[str]) -> SpeedRuns:
    """The runs of the sessions that both sides share; all of them where they share none."""
    if any(run.started_at is None for side in sides for run in side):
        notes.append("the logs have no start times: one session is assumed")
        return SpeedRuns(sides, None, tuple(notes))
    sessions = _sessions(sides)
    shared = {number for number, of in sessions.items() if _interleaved(of[0], of[1])}
    if not shared:
        return SpeedRuns(sides, None, tuple(notes), _apart(sides, len(sessions)))
    if len(shared) < len(sessions):
        notes.append("only runs of sessions in which both sides ran by turns are compared")
    kept = [
        [
            msgspec.structs.replace(run, environment={**run.environment, SESSION: str(number)})
            for number in sorted(shared)
            for run in sessions[number][side]
        ]
        for side in (0, 1)
    ]
    return SpeedRuns((kept[0], kept[1]), None, tuple(notes))


def _sessions(sides: tuple[Runs, Runs]) -> dict[int, list[list[LoggedRun]]]:
    """The runs of both sides by session, numbered in order of time."""
    ordered = sorted(
        ((_start(run), side, run) for side, runs in enumerate(sides) for run in runs),
        key=lambda one: (one[0], one[1]),
    )
    sessions: dict[int, list[list[LoggedRun]]] = defaultdict(lambda: [[], []])
    number, end = 0, -math.inf
    for start, side, run in ordered:
        if start - end > GAP_S:
            number += 1
        sessions[number][side].append(run)
        end = max(end, _end(run))
    return sessions


def _start(run: LoggedRun) -> float:
    return run.started_at or 0.0


def _end(run: LoggedRun) -> float:
    """The earliest time at which a run can have ended."""
    return _start(run) + run.metrics.get("train_time_s", 0.0)


def _interleaved(a: Runs, b: Runs) -> bool:
    """Whether the runs of two sides overlap or alternate in time."""
    if not a or not b:
        return False
    return min(map(_start, b)) < max(map(_end, a)) and min(map(_start, a)) < max(map(_end, b))


def _apart(sides: tuple[Runs, Runs], sessions: int) -> str:
    if (first := _first(*sides)) is None:
        return "A and B did not run by turns in any session"
    then = "B" if first == "A" else "A"
    gap_s = min(map(_start, sides["AB".index(then)])) - max(map(_end, sides["AB".index(first)]))
    later = f", {_duration(gap_s)} later" if gap_s > GAP_S else ""
    return f"all of {first} ran before all of {then}{later}" + (
        f", in {sessions} sessions" if sessions > 2 else ""
    )


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"


def _first(a: Runs, b: Runs) -> str | None:
    """The side whose runs all started before those of the other, as far as they have times."""
    times = [[run.started_at for run in side if run.started_at is not None] for side in (a, b)]
    if all(times) and max(times[0]) < min(times[1]):
        return "A"
    return "B" if all(times) and max(times[1]) < min(times[0]) else None


def _differing(a: Runs, b: Runs) -> str:
    """The fields in which no run of A equals a run of B, with their values."""
    fields = sorted({field for run in (*a, *b) for field in run.environment})
    parts = []
    for field in fields:
        values = [sorted({run.environment.get(field, "unknown") for run in s}) for s in (a, b)]
        if set(values[0]) & set(values[1]):
            continue
        short = [value[0] if len(value) == 1 else f"{len(value)} values" for value in values]
        long = any(len(text) > 40 for text in short)
        parts.append(f"{field} differ" if long else f"{field} {short[0]} against {short[1]}")
    return "; ".join(parts) or "no two runs share an environment"


def inside_blocks(values: Sequence[Sequence[float]], sides: Sequence[Runs]) -> Difference:
    """B minus A inside environments and sessions, each of which has its own level."""
    blocks = [[environment_of(run) for run in side] for side in sides]
    numbers = {where: index for index, where in enumerate(dict.fromkeys(blocks[0]))}
    fit = fit_blocks(
        np.array([*values[0], *values[1]], dtype=np.float64),
        np.array([numbers[where] for side in blocks for where in side], dtype=np.intp),
        np.array([0] * len(values[0]) + [1] * len(values[1]), dtype=np.intp),
    )
    return Difference(contrast=fit.contrast(0), method="blocks", sd=fit.sd, run_sd=fit.sd)


# --- the error of sides that ran in different sessions --------------------------------------------


def widened(difference: Difference, host_sd: float, host_df: float) -> Difference:
    """The difference with the SD between hosts in its error, once for each side.

    More runs in the same sessions do not reduce it, so there is no number of runs to advise. The
    degrees of freedom are Satterthwaite's.
    """
    contrast = difference.contrast
    host = 2 * host_sd**2
    own = contrast.se**2 if contrast.df > 0 else 0.0
    total = own + host
    df = total**2 / ((own**2 / contrast.df if own else 0.0) + host**2 / host_df)
    return Difference(
        contrast=Contrast(estimate=contrast.estimate, se=math.sqrt(total), df=df),
        method=difference.method,
        sd=difference.sd if own else host_sd,
        run_sd=None,
        excess_variance=difference.excess_variance,
    )


def session_finding(apart: str, host_sd: str | None) -> str:
    """What the sides' sessions mean for their speeds, for the first lines of a report.

    `host_sd`: as it is printed, '2.47 %'; None where the noise model has none.
    """
    shown = f"speed: {apart}, and logs do not show whether on one host"
    advice = "Run A and B by turns to compare speeds"
    if host_sd is None:
        return f"{shown}; the noise model has no SD between hosts, so it is refused. {advice}"
    return f"{shown}, so the SD between hosts, {host_sd}, is in the interval. {advice}"
