"""The report of the drift watch: the answer, then each metric with its noise and its steps."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from harness import errors
from harness.comparison.drift import (
    LEAST_SESSIONS,
    DriftStep,
    MetricDrift,
    Series,
    alarms,
    is_worse,
)
from harness.format import percent, plural, signed
from harness.metrics import METRICS
from harness.report.document import Block, Document, Notes, Section, Tone, number, present, table

OUTCOMES: dict[int, tuple[Tone, str]] = {
    errors.REGRESSION: ("regression", "a level became worse in the last {recent} sessions"),
    errors.INCONCLUSIVE: (
        "inconclusive",
        "too few sessions of one configuration and seed to look for drift",
    ),
    errors.PASS: ("pass", "no level became worse in the last {recent} sessions"),
}
EMPTY = "The store has no completed runs: name it with --store."
SEVERAL = "combinations of configuration and seed"


def exit_code(found: Sequence[Series], recent: int) -> int:
    """10 where a recent step is worse, 3 where no series is long enough, else 0."""
    if alarms(found, recent):
        return errors.REGRESSION
    looked = any(one.missing is None for series in found for one in series.metrics)
    return errors.PASS if looked else errors.INCONCLUSIVE


def build_drift(found: Sequence[Series], recent: int) -> Document:
    """Every series that is long enough, the longest first, and one line for all others."""
    code = exit_code(found, recent)
    tone, answer = OUTCOMES[code]
    long = [one for one in found if any(metric.missing is None for metric in one.metrics)]
    short = [one for one in found if one not in long]
    return Document(
        title="Drift",
        answer=answer.format(recent=recent),
        tone=tone,
        blocks=present(
            *(Section(title=_title(series), blocks=_blocks(series)) for series in long),
            Notes(items=[_short_line(short)] if short else []),
            Notes(items=[] if found else [EMPTY]),
        ),
        data={"series": msgspec.to_builtins(list(found)), "exit_code": code},
    )


def _short_line(short: Sequence[Series]) -> str:
    most = max(series.sessions for series in short)
    which = plural(len(short), "combination of configuration and seed", SEVERAL)
    return (
        f"{which} with too few sessions for a search: {LEAST_SESSIONS} are needed, "
        f"the longest has {most}. --json lists them."
    )


def _title(series: Series) -> str:
    failed = f", {series.failed} failed" if series.failed else ""
    return (
        f"{series.trainer} {series.config_id[:12]}, seed {series.seed}, on {series.device}: "
        f"{plural(series.sessions, 'session')} from {_day(series.since)} to "
        f"{_day(series.until)}{failed}"
    )


def _blocks(series: Series) -> list[Block]:
    numbers = map(number, ("n", "SD of a session", "detectable step"))
    return present(
        table(
            ["metric", *numbers, "steps"],
            [_row(one) for one in series.metrics],
            caption="detectable step: one that nine of ten looks would find a week later",
        ),
        Notes(items=[_sentence(one, step) for one in series.metrics for step in one.steps]),
    )


def _row(one: MetricDrift) -> list[str]:
    if one.missing is not None:
        return [one.metric, str(one.sessions), "unknown", "unknown", one.missing]
    sizes = [_size(one, value).lstrip("+") for value in (one.noise, one.detectable)]
    return [one.metric, str(one.sessions), *sizes, str(len(one.steps))]


def _sentence(one: MetricDrift, step: DriftStep) -> str:
    direction = "worse" if is_worse(one.metric, step) else "better"
    changed = "; ".join(step.changed) or "nothing that the records show"
    return (
        f"{_day(step.at)}: {one.metric} {_size(one, step.size)} "
        f"[{_size(one, step.low)}, {_size(one, step.high)}], {direction}; "
        f"n {step.n[0]} before, {step.n[1]} since. Changed in that session: {changed}"
    )


def _size(one: MetricDrift, value: float | None) -> str:
    if value is None:
        return "unknown"
    metric = METRICS[one.metric]
    if metric.scale == "log":
        return percent(math.expm1(value), 2, sign=True)
    return f"{signed(f'{value:+.3g}')} {metric.unit}".rstrip()


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
