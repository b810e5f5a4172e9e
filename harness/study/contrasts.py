"""Compares every arm of a study with the base in one metric.

Loss and memory are compared over all completed runs of an arm, with one SD pooled over the arms.
Speed is compared inside blocks only, between runs of one session with equally many concurrent runs,
because the same code differs by more from host to host than most tricks are worth. An effect that
cannot be estimated carries the reason instead. The intervals of all arms share the study's
correction; each decision goes through `harness.comparison.engine`. Never reads disk, never prints.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec
import numpy as np

from harness.comparison import engine
from harness.comparison.margins import Margin, default_margin, stated_margin
from harness.comparison.result import MetricResult
from harness.comparison.rules import Simultaneous
from harness.metrics import METRICS, duplicates
from harness.results.recipe import is_full_scale
from harness.results.record import SESSION_GAP_S, Record
from harness.results.study_plan import Arm
from harness.stats import inference, regression
from harness.stats.decision import Difference, Method
from harness.stats.distributions import dunnett_loadings, loadings_from_covariance
from harness.stats.inference import Contrast
from harness.study.effects import ArmNoise
from harness.study.evidence import (
    ArmRun,
    Evidence,
    evaluation_reason,
    incomparable_reason,
    unfinished_reason,
)

ONE_RUN = "one run{of}: a second seed gives an interval"


# --- a family of effects: every arm against the base in one metric ------------------------------


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm's comparison before its interval: a contrast with its counts, or why it has none."""

    arm: str
    n_base: int
    n_arm: int
    base_mean: float | None = None
    arm_mean: float | None = None
    contrast: Contrast | None = None
    method: Method = "pooled"
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


Anchors = dict[int | None, ArmRun]
"""The base's run of each block, with which the speeds of that block are compared."""

Loadings = Callable[[list[Cell]], Sequence[float] | None]


def _no_loadings(_: list[Cell]) -> Sequence[float] | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Family:
    """All arms in one metric: results, the noise behind them, and contrasts for time to target."""

    effects: dict[str, MetricResult]
    noise: ArmNoise
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    loadings: Loadings = _no_loadings


def effects_of(
    metric: str, cells: Sequence[Cell], evidence: Evidence, loadings: Loadings
) -> dict[str, MetricResult]:
    """Results by arm, their intervals corrected together; `loadings` of the cells that get one."""
    decide = evidence.study.decide
    with_interval = [cell for cell in cells if cell.contrast and not cell.no_interval]
    found = inference.intervals(
        [cell.contrast for cell in with_interval if cell.contrast],
        decide.alpha,
        decide.correction,
        loadings(with_interval),
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
            start, method=cell.method, beyond=cell.beyond, left_out=cell.left_out
        )
        interval = intervals.get(cell.arm)
        if cell.contrast is not None and interval is not None:
            difference = Difference(contrast=cell.contrast, method=cell.method)
            start = engine.conclude(start, difference, rule(value=interval.critical))
            start = msgspec.structs.replace(start, p=interval.p)
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


# --- loss, memory: all completed runs, one SD ---------------------------------------------------


def pooled_effects(
    evidence: Evidence,
    metric: str,
    only: Callable[[Record], bool] | None = None,
) -> Family:
    """Every arm's mean minus the base's, over the runs that `only` admits; one SD, or Welch's."""
    only = only or (lambda record: True)
    base_values = evidence.values(evidence.base, metric, only)
    usable: list[tuple[Arm, list[float]]] = []
    cells: list[Cell] = []
    for arm in evidence.arms:
        values = evidence.values(arm, metric, only)
        missing = (
            incomparable_reason(evidence, arm)
            or evaluation_reason(evidence, arm, metric)
            or _not_measured(evidence, arm, metric, base_values, values)
        )
        if missing:
            cells.append(
                Cell(arm=arm.name, n_base=len(base_values), n_arm=len(values), missing=missing)
            )
        else:
            usable.append((arm, values))
    if not usable:
        alone = inference.pool([base_values]) if base_values else None
        effects = effects_of(metric, cells, evidence, _no_loadings)
        return Family(effects=effects, noise=_noise(metric, alone))
    pooled = inference.pool([base_values, *(values for _, values in usable)])
    contrasts = inference.contrasts_with_control(pooled)
    cells += [
        Cell(
            arm=arm.name,
            n_base=len(base_values),
            n_arm=len(values),
            base_mean=pooled.means[0],
            arm_mean=mean,
            contrast=contrast,
            method="pooled" if pooled.equal_variances else "welch",
        )
        for (arm, values), mean, contrast in zip(usable, pooled.means[1:], contrasts, strict=True)
    ]

    def loadings(kept: list[Cell]) -> Sequence[float] | None:
        if not pooled.equal_variances:
            return None
        return dunnett_loadings(len(base_values), [cell.n_arm for cell in kept])

    return Family(
        effects=effects_of(metric, cells, evidence, loadings),
        noise=_noise(metric, pooled),
        contrasts={cell.arm: cell.contrast for cell in cells if cell.contrast},
        loadings=loadings,
    )


def _noise(metric: str, pooled: inference.Pooled | None) -> ArmNoise:
    if pooled is None or not pooled.df:
        return ArmNoise(metric=metric, sd=None, df=0)
    return ArmNoise(
        metric=metric,
        sd=pooled.sd,
        df=pooled.df,
        equal_variances=pooled.equal_variances,
        brown_forsythe_p=pooled.brown_forsythe_p,
    )


def _not_measured(
    evidence: Evidence, arm: Arm, metric: str, base_values: list[float], values: list[float]
) -> str | None:
    for who, found in ((evidence.base, base_values), (arm, values)):
        if found:
            continue
        runs = evidence.runs.get(who.name, [])
        name = "the base: " if who is evidence.base else ""
        if any(run.completed for run in runs):
            return f"{name}{metric} was not measured"
        return name + unfinished_reason(runs)
    return None


# --- speed: inside blocks only ------------------------------------------------------------------


def speed_effects(evidence: Evidence, metric: str) -> Family:
    """ln(tokens/s) of every arm minus the base's, from blocks of one session each.

    A run counts when the base of its block ran in the same session (environment, boot, no gap of
    more than ten minutes) with equally many concurrent runs; otherwise `left_out` has the reason.
    """
    anchors: Anchors = {
        run.planned.block: run
        for run in evidence.runs.get(evidence.base.name, [])
        if run.planned.block is not None and _speed_of(run, metric) is not None
    }
    used: dict[str, list[ArmRun]] = {}
    left_out: dict[str, dict[str, list[int]]] = {}
    for arm in evidence.arms:
        used[arm.name], left_out[arm.name] = [], {}
        foreign = incomparable_reason(evidence, arm)
        for run in evidence.runs.get(arm.name, []):
            if run.completed is None:
                continue
            reason = foreign or _speed_reason(run, anchors.get(run.planned.block), metric)
            if reason:
                left_out[arm.name].setdefault(reason, []).append(run.planned.seed)
            else:
                used[arm.name].append(run)
    compared = [arm for arm in evidence.arms if used[arm.name]]
    fit = _fit_speed(anchors, [used[arm.name] for arm in compared], metric)
    cells = [
        _speed_cell(
            evidence, arm, metric, anchors, used[arm.name], _reason_texts(left_out[arm.name])
        )
        for arm in evidence.arms
    ]
    contrasts = {arm.name: fit.contrast(i) for i, arm in enumerate(compared)} if fit else {}
    cells = [_with_contrast(cell, contrasts.get(cell.arm)) for cell in cells]
    order = {arm.name: index for index, arm in enumerate(compared)}

    def loadings(kept: list[Cell]) -> Sequence[float] | None:
        if fit is None:
            return None
        rows = [order[cell.arm] for cell in kept]
        return loadings_from_covariance(fit.unit_covariance[np.ix_(rows, rows)])

    noise = ArmNoise(metric=metric, sd=fit.sd if fit and fit.df else None, df=fit.df if fit else 0)
    return Family(
        effects=effects_of(metric, cells, evidence, loadings),
        noise=noise,
        contrasts=contrasts,
        loadings=loadings,
    )


def _with_contrast(cell: Cell, contrast: Contrast | None) -> Cell:
    return replace(cell, contrast=contrast) if contrast else cell


def _reason_texts(reasons: dict[str, list[int]]) -> list[str]:
    """'seeds 1, 2: why' for each reason."""
    return [
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}: {reason}"
        for reason, seeds in reasons.items()
    ]


def _speed_of(run: ArmRun, metric: str) -> float | None:
    value = run.completed.metrics.get(metric) if run.completed else None
    return value if value and value > 0 else None


def _speed_reason(run: ArmRun, anchor: ArmRun | None, metric: str) -> str | None:
    """Why this run's speed may not be compared with the base's run of its block."""
    if _speed_of(run, metric) is None:
        return f"{metric} was not measured"
    if anchor is None or anchor.completed is None or run.completed is None:
        return f"the base has no {metric} in this block"
    own, base = run.completed, anchor.completed
    if own.environment_id != base.environment_id:
        return (
            f"environment_id differs from the base's ({own.environment_id} against "
            f"{base.environment_id})"
        )
    if own.boot_id != base.boot_id:
        return "boot_id differs from the base's: the machine was restarted or is another one"
    if run.session != anchor.session:
        return f"another session than the base's: a gap of over {SESSION_GAP_S / 60:.0f} minutes"
    if own.concurrent_runs != base.concurrent_runs:
        return f"{own.concurrent_runs} concurrent runs; the base's run had {base.concurrent_runs}"
    return None


def _fit_speed(
    anchors: Anchors, arms: Sequence[Sequence[ArmRun]], metric: str
) -> regression.BlockFit | None:
    """The additive model over the blocks that hold the base and at least one other run."""
    blocks = sorted(
        {run.planned.block for runs in arms for run in runs if run.planned.block is not None}
    )
    if not blocks:
        return None
    number = {block: index for index, block in enumerate(blocks)}
    groups = [[anchors[block] for block in blocks], *arms]
    rows = [
        (math.log(speed), number[run.planned.block], arm)
        for arm, runs in enumerate(groups)
        for run in runs
        if (speed := _speed_of(run, metric)) is not None and run.planned.block is not None
    ]
    values, block_index, arm_index = zip(*rows, strict=True)
    return regression.fit_blocks(
        np.array(values), np.array(block_index, dtype=np.intp), np.array(arm_index, dtype=np.intp)
    )


def _speed_cell(
    evidence: Evidence,
    arm: Arm,
    metric: str,
    anchors: Anchors,
    used: Sequence[ArmRun],
    left_out: list[str],
) -> Cell:
    bases = [anchors[run.planned.block] for run in used]
    missing = None
    if not used:
        missing = "; ".join(left_out) or unfinished_reason(evidence.runs.get(arm.name, []))
    return Cell(
        arm=arm.name,
        n_base=len(bases),
        n_arm=len(used),
        base_mean=_geometric_mean(bases, metric),
        arm_mean=_geometric_mean(used, metric),
        method="blocks",
        missing=missing,
        left_out=left_out,
    )


def _geometric_mean(runs: Sequence[ArmRun], metric: str) -> float | None:
    logs = [math.log(speed) for run in runs if (speed := _speed_of(run, metric)) is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None
