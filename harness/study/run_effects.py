"""Compares losses and memory of a study's arms with the base: all completed runs of an arm.

Each arm has its own variance, moderated towards the others' (`harness.stats.moderation`). Arms
share initialisation and data order by seed; where the differences inside seeds give the shorter
interval, the mean of those is used instead (method "paired"). Never reads disk, never prints.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.results.record import Record
from harness.results.study_plan import Arm
from harness.stats import inference, moderation
from harness.stats.decision import of_pairs
from harness.study.contrasts import Cell, Family, effects_of
from harness.study.effects import ArmNoise
from harness.study.evidence import (
    Evidence,
    evaluation_reason,
    incomparable_reason,
    unfinished_reason,
)

BySeed = Mapping[int, float]
Only = Callable[[Record], bool]


def run_effects(evidence: Evidence, metric: str, only: Only | None = None) -> Family:
    """Every arm's mean minus the base's, over the runs that `only` admits."""
    admits = only or (lambda record: True)
    base = evidence.values(evidence.base, metric, admits)
    usable: dict[str, BySeed] = {}
    missing: list[Cell] = []
    for arm in evidence.arms:
        values = evidence.values(arm, metric, admits)
        reason = (
            incomparable_reason(evidence, arm)
            or evaluation_reason(evidence, arm, metric)
            or _not_measured(evidence, arm, metric, base, values)
        )
        if reason:
            missing.append(Cell(arm=arm.name, n_base=len(base), n_arm=len(values), missing=reason))
        else:
            usable[arm.name] = values
    unpaired = _unpaired(base, usable, evidence.base_elsewhere(metric, admits))
    pairs = _paired(base, usable)
    share = moderation.PAIRING_SHARE if pairs else 1.0
    decide = evidence.study.decide
    level = inference.arm_level(share * decide.alpha, len(usable), decide.correction)
    cells = [_shorter(cell, pairs.get(cell.arm), level) for cell in unpaired]
    return Family(
        effects=effects_of(metric, [*missing, *cells], evidence, share),
        noise=_noise(metric, [base, *usable.values()]),
        contrasts={cell.arm: cell.contrast for cell in cells if cell.contrast},
        share=share,
    )


def _unpaired(base: BySeed, usable: Mapping[str, BySeed], elsewhere: Sequence[float]) -> list[Cell]:
    """The cells of the arms from their own runs. `elsewhere`: the base's runs of other studies."""
    groups = [list(base.values()), *(list(values.values()) for values in usable.values())]
    if not usable:
        return []
    squares, df = (np.array(column) for column in zip(*map(_squares, groups), strict=True))
    if groups[0]:
        more_squares, more_df = _squares(elsewhere)
        squares[0] += more_squares
        df[0] += more_df
    means = [float(np.mean(group)) for group in groups]
    variances = moderation.moderate(squares, df)
    contrasts = moderation.unpaired(means, list(map(len, groups)), variances)
    return [
        Cell(
            arm=name,
            n_base=len(base),
            n_arm=len(usable[name]),
            base_mean=means[0],
            arm_mean=mean,
            contrast=contrast,
            method="moderated",
        )
        for name, mean, contrast in zip(usable, means[1:], contrasts, strict=True)
    ]


def _squares(values: Sequence[float]) -> tuple[float, float]:
    """The sum of squares about the mean, and its df."""
    if len(values) < 2:
        return 0.0, 0.0
    return float(np.var(values)) * len(values), len(values) - 1.0


def _paired(base: BySeed, usable: Mapping[str, BySeed]) -> dict[str, Cell]:
    """The cells of the arms that share two seeds or more with the base, from those seeds alone."""
    cells = {}
    for name, values in usable.items():
        seeds = sorted(base.keys() & values.keys())
        pair = [base[seed] for seed in seeds], [values[seed] for seed in seeds]
        if seeds and (contrast := of_pairs(*pair, least=2)) is not None:
            cells[name] = Cell(
                arm=name,
                n_base=len(seeds),
                n_arm=len(seeds),
                base_mean=float(np.mean(pair[0])),
                arm_mean=float(np.mean(pair[1])),
                contrast=contrast,
                method="paired",
            )
    return cells


def _shorter(cell: Cell, pair: Cell | None, level: float) -> Cell:
    """The cell with the shorter interval at this level."""
    if pair is None or cell.contrast is None or pair.contrast is None:
        return cell
    return pair if moderation.is_shorter(pair.contrast, cell.contrast, level) else cell


def _noise(metric: str, arms: Sequence[BySeed]) -> ArmNoise:
    groups = [list(arm.values()) for arm in arms if len(arm) > 1]
    if not groups:
        return ArmNoise(metric=metric, sd=None, df=0)
    pooled = inference.pool(groups)
    sds = [float(np.std(group, ddof=1)) for group in groups]
    return ArmNoise(metric=metric, sd=pooled.sd, df=pooled.df, lowest=min(sds), highest=max(sds))


def _not_measured(
    evidence: Evidence, arm: Arm, metric: str, base_values: BySeed, values: BySeed
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
