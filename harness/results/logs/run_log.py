"""One run as read from a log: final metrics, and what a comparison needs to know about them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from harness.errors import HarnessError
from harness.metrics import is_measured
from harness.results.recipe import VarianceSource

TAIL_STEPS = 200


class LogError(HarnessError):
    """A log that cannot be read or lacks what a comparison needs."""


class NotALog(LogError):
    """A file that is no log of a run; in a folder it is skipped by name."""


class Evaluation(msgspec.Struct, frozen=True):
    """The metrics of a run at one evaluation; times are those of its own clock."""

    step: int
    metrics: dict[str, float]


class LoggedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    `metrics`: the final values, finite. `evaluations`: all of them in order, as far as the log has
    them. `code_id`: what identifies the code, where all of it is known; `source_code`: the part of
    it that a log embeds; `content_id`: the hash of a log, equal for copies of it. `ending`: why the
    run is incomplete; None if it completed. `environment`: the properties of the machine that its
    speed depends on, as far as the log has them; `environment_known`: whether they suffice to
    identify it. `diverged`: it ended by a non-finite loss or for lack of memory, not by being
    stopped. `varied`: the source of variance between replicates of this run. `store`: of a
    record, where it has one. Times are Unix seconds.
    """

    source: str
    family: str  # the trainer: metrics are comparable within a family only
    metrics: dict[str, float]
    steps: int
    evaluations: list[Evaluation] = []
    evaluated_at: int | None = None  # the last step that was evaluated
    planned_steps: int | None = None
    ending: str | None = None
    diverged: bool = False
    scale: str | None = None
    full_scale: bool = False
    gpu: str | None = None
    environment: dict[str, str] = {}
    environment_known: bool = False
    varied: VarianceSource = "seed"
    seed: int | None = None
    code_id: str | None = None
    source_code: str | None = None
    content_id: str | None = None
    identity: dict[str, str] = {}  # fields that must be equal on both sides
    evaluation: dict[str, str] = {}  # fields that must be equal to compare CORE
    answers: Path | None = None  # its core.parquet
    config_id: str | None = None
    store: Path | None = None
    attempt: str | None = None  # its unique name in the store
    started_at: float | None = None
    warnings: list[str] = []


def at_evaluation(run: LoggedRun, step: int) -> LoggedRun:
    """The run as it stood at one of its evaluations: the metrics of that step."""
    if step == run.evaluated_at:
        return run
    past = [at for at in run.evaluations if at.step <= step]
    metrics = dict(past[-1].metrics)
    if "step_ms" in run.metrics and (tail := tail_ms(past)) is not None:
        metrics["step_ms"] = tail
    if "peak_memory_bytes" in run.metrics:
        metrics["peak_memory_bytes"] = run.metrics["peak_memory_bytes"]
    return msgspec.structs.replace(
        run, metrics=metrics, steps=step, evaluated_at=step, evaluations=past
    )


def tail_ms(evaluations: Sequence[Evaluation]) -> float | None:
    """Mean step time since the last evaluation at least TAIL_STEPS before the end, in ms.

    It excludes start-up and compilation and covers the last stage of the schedule.
    """
    timed = [(at.step, at.metrics.get("train_time_s")) for at in evaluations]
    step, end = timed[-1] if timed else (0, None)
    for at, start in reversed(timed):
        if start is not None and end is not None and 0 < at <= step - TAIL_STEPS:
            return 1000 * (end - start) / (step - at)
    return None


class FinalMetrics(NamedTuple):
    """The final metrics of a run that are measurements; why it has no result, if one is not."""

    metrics: dict[str, float]
    ending: str | None = None
    diverged: bool = False


def final_metrics(values: Mapping[str, float], needed: Sequence[str] | None = None) -> FinalMetrics:
    """Separates measurements from numbers that are not finite, and from losses of 0 or below.

    A number that is not finite is a divergence; what a loss of 0 stands for is not known. Only a
    metric in `needed` (None: any) makes a run one without a result.
    """
    metrics = {name: value for name, value in values.items() if is_measured(name, value)}
    bad = [name for name in values if name not in metrics and (needed is None or name in needed)]
    if infinite := [name for name in bad if not math.isfinite(values[name])]:
        return FinalMetrics(metrics, f"its last {infinite[0]} is not a number", diverged=True)
    if bad:
        shown = f"its last {bad[0]} is {values[bad[0]]:g}, which is no measurement"
        return FinalMetrics(metrics, shown)
    return FinalMetrics(metrics)


def evaluation(step: int, metrics: Mapping[str, float]) -> list[Evaluation]:
    """The evaluation at a step; none where it has no measurement."""
    measured = {name: value for name, value in metrics.items() if is_measured(name, value)}
    return [Evaluation(step, measured)] if len(measured) == len(metrics) else []


def number(text: str) -> float:
    """The number that a text is; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def finite(text: str | None) -> float | None:
    """The finite number that a text is; None where it is none."""
    value = math.nan if text is None else number(text)
    return value if math.isfinite(value) else None


def truncation_reason(evaluated_at: int, reached: int, planned: int) -> str | None:
    """Why a run is incomplete, from its last evaluation and last step; None if it is complete."""
    if evaluated_at >= planned:
        return None
    where = " before its evaluation" if reached >= planned else ""
    return f"it ends at step {max(evaluated_at, reached):,} of {planned:,}{where}"


def resumed_at(source: str, steps: Sequence[int]) -> str:
    """The warning about a run that was resumed at these steps."""
    where = " and ".join(f"{step:,}" for step in steps)
    return f"{source}: it was resumed at step {where}; times, of several processes, are left out"


def first_backward_step(
    steps: Sequence[int], times: Sequence[float], warm_up_steps: int
) -> int | None:
    """The first step after the warm-up at which a clock goes backwards, or None."""
    for (_, before), (step, now) in zip(
        pairs := list(zip(steps, times, strict=True)), pairs[1:], strict=False
    ):
        if now < before and step > warm_up_steps:
            return step
    return None
