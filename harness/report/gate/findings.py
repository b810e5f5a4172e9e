"""A gate's JSON as a few lines of text: what JUnit and annotations are made of.

Reads what `harness gate --json` printed, and takes only what it shows, so that fields may be added
to the gate. A gate that died left half a file or none: that is an answer too, with the outcome
`could not run`. Pure but for the one file it reads; before `junit` and `annotations`.
"""

import math
from pathlib import Path
from typing import Literal

import msgspec

from harness import errors
from harness.errors import UsageError

Outcome = Literal["pass", "regression", "inconclusive", "could not run"]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One metric as the gate judged it; differences are of logarithms where `scale` is log."""

    metric: str
    title: str
    unit: str
    scale: str
    n: tuple[int, int]
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    minimum_detectable: float | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    notes: list[str] = []


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric with what the gate knows beyond the numbers."""

    judged: Judged
    evidence: str
    unconfirmed: bool = False


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole gate. Moments are Unix seconds."""

    outcome: Outcome
    reason: str
    exit_code: int
    metrics: list[Metric] = []
    notes: list[str] = []
    log_tail: str | None = None
    started_at: float = 0.0
    ended_at: float = 0.0


def read(path: Path, exit_code: int | None = None) -> Findings:
    """The findings of a gate. `exit_code` is what its process ended with, where that is known.

    Raises:
        UsageError: the file is not there, and no exit code says how the gate ended.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        if exit_code is None:
            raise UsageError(
                str(path),
                "what `harness gate --json` printed",
                str(error.strerror),
                "Name that file, or say with --exit-code how the gate ended.",
            ) from None
        text = b""
    try:
        found = msgspec.json.decode(text, type=Findings)
    except msgspec.DecodeError as error:
        return _without_result(f"what the gate left is not its result ({error})")
    if exit_code is not None and exit_code != found.exit_code:
        return _without_result(
            f"the gate said {found.outcome} and then ended with exit code {exit_code}"
        )
    return found


def sentence(metric: Metric) -> str:
    """Effect, interval, margin, n and the smallest detectable effect of one metric."""
    judged = metric.judged
    if judged.estimate is None:
        return judged.reason or "not measured"
    parts = [f"{_change(judged, judged.estimate)}{_interval(judged)}"]
    if judged.margin is not None:
        parts.append(f"margin {_size(judged, judged.margin)}")
    parts.append(f"n {judged.n[0]} and {judged.n[1]} {metric.evidence}")
    if judged.minimum_detectable is not None:
        parts.append(f"smallest detectable {_size(judged, judged.minimum_detectable)}")
    if metric.unconfirmed:
        parts.append("unconfirmed: a second session has to show it too")
    return "; ".join([*parts, *([judged.reason] if judged.reason else []), *judged.notes])


def _without_result(reason: str) -> Findings:
    return Findings(outcome="could not run", reason=reason, exit_code=errors.COULD_NOT_RUN)


def _interval(judged: Judged) -> str:
    if judged.low is None or judged.high is None:
        return ""
    return f" [{_change(judged, judged.low)}, {_change(judged, judged.high)}]"


def _change(judged: Judged, value: float) -> str:
    if judged.scale == "log":
        return f"{100 * math.expm1(value):+.2f} %"
    if judged.unit == "bytes":
        return f"{value / 2**20:+z,.0f} MiB"
    return f"{value:+.4g} {judged.unit}".rstrip()


def _size(judged: Judged, value: float) -> str:
    return _change(judged, value).lstrip("+")
