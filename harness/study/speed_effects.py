"""Compares speeds of a study's arms with the base, inside blocks of one session only.

The same code differs by more from host to host than most tricks are worth. ln(speed) = block + arm,
and each arm has its own variance, moderated towards the others' (`harness.stats.moderation`). Never
reads disk, never prints.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.results.record import SESSION_GAP_S
from harness.results.study_plan import Arm
from harness.stats import moderation, regression
from harness.stats.inference import Contrast
from harness.study.contrasts import Cell, Family, effects_of
from harness.study.effects import ArmNoise
from harness.study.evidence import ArmRun, Evidence, incomparable_reason, unfinished_reason

Anchors = dict[int | None, ArmRun]
"""The base's run of each block, with which the speeds of that block are compared."""


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
    found = moderation.in_blocks(fit) if fit else []
    contrasts = {arm.name: one for arm, one in zip(compared, found, strict=bool(fit))}
    cells = [_with_contrast(cell, contrasts.get(cell.arm)) for cell in cells]
    noise = ArmNoise(metric=metric, sd=fit.sd if fit and fit.df else None, df=fit.df if fit else 0)
    return Family(
        effects=effects_of(metric, cells, evidence),
        noise=noise,
        contrasts=contrasts,
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
