"""Every arm of a study against its base in one metric: contrasts, corrected together, decided.

`run_effects` makes the contrasts of losses and memory, `speed_effects` those of speeds. An effect
that cannot be estimated carries the reason instead. The intervals of all arms share the study's
correction; each decision goes through `harness.comparison.engine`. Never reads disk, never prints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from harness.comparison import engine
from harness.comparison.margins import Margin, default_margin, stated_margin
from harness.comparison.result import MetricResult
from harness.comparison.rules import Simultaneous
from harness.metrics import METRICS, duplicates
from harness.results.recipe import is_full_scale
from harness.stats import inference
from harness.stats.decision import Difference, Method
from harness.stats.inference import Contrast
from harness.study.effects import ArmNoise
from harness.study.evidence import (
    Evidence,
)

ONE_RUN = "one run{of}: a second seed gives an interval"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm's comparison before its interval: a contrast with its counts, or why it has none."""

    arm: str
    n_base: int
    n_arm: int
    base_mean: float | None = None
    arm_mean: float | None = None
    contrast: Contrast | None = None
    method: Method = "moderated"
    missing: str | None = None
    beyond: float | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def no_interval(self) -> str | None:
        """Why this comparison has an estimate but no interval."""
        if self.contrast is None:
            return None
        if self.n_arm < 2:
            return ONE_RUN.format(of="")
        if self.n_base < 2:
            return ONE_RUN.format(of=" of the base")
        if not self.contrast.df > 0 or math.isnan(self.contrast.se):
            return "no degrees of freedom for the noise: more seeds give an interval"
        return None


@dataclass(frozen=True, kw_only=True)
class Family:
    """All arms in one metric: results, the noise behind them, and contrasts for time to target."""

    effects: dict[str, MetricResult]
    noise: ArmNoise
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    share: float = 1.0


def effects_of(
    metric: str, cells: Sequence[Cell], evidence: Evidence, share: float = 1.0
) -> dict[str, MetricResult]:
    """Results by arm, their intervals corrected together.

    `share` of alpha is that of each interval where the shorter of two is used; p-values then grow
    by the same factor.
    """
    decide = evidence.study.decide
    with_interval = [cell for cell in cells if cell.contrast and not cell.no_interval]
    found = inference.intervals(
        [cell.contrast for cell in with_interval if cell.contrast],
        share * decide.alpha,
        decide.correction,
    )
    intervals = {cell.arm: one for cell, one in zip(with_interval, found, strict=True)}
    margin = _margin(evidence, metric)
    rule = partial(
        Simultaneous, alpha=decide.alpha, correction=decide.correction, arms=len(intervals)
    )
    results = {}
    for cell in cells:
        start = engine.draft(
            METRICS[metric],
            (cell.n_base, cell.n_arm),
            (cell.base_mean, cell.arm_mean),
            margin=margin,
            reason=cell.missing or cell.no_interval,
        )
        start = msgspec.structs.replace(
            start,
            method=cell.method,
            beyond=cell.beyond,
            left_out=cell.left_out,
        )
        interval = intervals.get(cell.arm)
        if cell.contrast is not None and interval is not None:
            difference = Difference(contrast=cell.contrast, method=cell.method)
            start = engine.conclude(start, difference, rule(value=interval.critical))
            start = msgspec.structs.replace(start, p=min(1.0, interval.p / share))
        elif cell.contrast is not None:
            start = msgspec.structs.replace(start, estimate=cell.contrast.estimate)
        results[cell.arm] = start
    return results


def _margin(evidence: Evidence, metric: str) -> Margin | None:
    """The study's margin of a metric, or the registry's where no other metric covers its story."""
    stated = evidence.study.decide.margin
    name = "time_to_target" if metric == "time_total" else metric
    if name in stated:
        return stated_margin(metric, stated[name], why="set by the study")
    measured = [one for one in METRICS if one == metric or evidence.measures(one)]
    if metric in duplicates(
        measured, lambda one: one in stated or _default(evidence, one) is not None
    ):
        return None
    return _default(evidence, metric)


def _default(evidence: Evidence, metric: str) -> Margin | None:
    runs = evidence.runs.get(evidence.base.name, [])
    full_scale = any(run.record is not None and is_full_scale(run.record) for run in runs)
    return default_margin(metric, None, full_scale)
