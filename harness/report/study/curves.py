"""Loss curves of the arms: a mean and a range over the seeds of each arm.

Every run is divided into equally many groups of steps and averaged in each, which reduces the noise
of single batches and lets runs of any length share one chart. At most `MOST_SEEDS` runs of an arm
are read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.report.study.content import Content

Floats = NDArray[np.float64]

GROUPS = 40
MOST_SEEDS = 8


@dataclass(frozen=True, kw_only=True)
class ArmCurve:
    """All (groups,) arrays: means over the seeds, and the range of the loss."""

    arm: str
    seeds: int
    tokens: Floats
    train_time_s: Floats
    loss: Floats
    low: Floats
    high: Floats
    validation: list[tuple[float, float, float]]  # (tokens, train_time_s, val_loss), seed means


def arm_curves(content: Content, arms: list[str]) -> tuple[list[ArmCurve], list[str]]:
    """The curve of each arm that recorded one, in the order of `arms`; and the damaged files."""
    ids: dict[str, list[str]] = {}
    for row in content.attribution.runs:
        if row.status == "completed":
            ids.setdefault(row.arm, []).append(row.plan_id)
    damaged: list[str] = []
    curves = (_arm_curve(content, arm, ids.get(arm, [])[:MOST_SEEDS], damaged) for arm in arms)
    return [curve for curve in curves if curve is not None], damaged


def _arm_curve(
    content: Content, arm: str, plan_ids: list[str], damaged: list[str]
) -> ArmCurve | None:
    """`damaged`: takes the files that cannot be read; each costs one seed of the arm."""
    tables = []
    for plan_id in plan_ids:
        try:
            table = content.store.curve(plan_id)
        except StoreError as error:
            damaged.append(f"{error.path}: {error.got}")
            continue
        if table is not None:
            tables.append(table)
    runs = [run for table in tables if (run := _grouped(_columns(table))) is not None]
    if not runs:
        return None
    shortest = min(len(run["loss"]) for run in runs)
    stacked = {name: np.stack([run[name][:shortest] for run in runs]) for name in runs[0]}
    return ArmCurve(
        arm=arm,
        seeds=len(runs),
        tokens=stacked["tokens"].mean(axis=0),
        train_time_s=stacked["train_time_s"].mean(axis=0),
        loss=stacked["loss"].mean(axis=0),
        low=stacked["loss"].min(axis=0),
        high=stacked["loss"].max(axis=0),
        validation=_validation([_columns(table) for table in tables]),
    )


def _columns(table: Any) -> dict[str, Floats]:
    names = ("tokens", "train_time_s", "train_loss", "val_loss")
    return {
        name: table.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in names
    }


def _grouped(columns: dict[str, Floats]) -> dict[str, Floats] | None:
    """Means over `GROUPS` equal groups of the steps that have a training loss."""
    known = np.isfinite(columns["train_loss"]) & np.isfinite(columns["train_time_s"])
    count = int(known.sum())
    if count < 2:
        return None
    edges = np.linspace(0, count, min(GROUPS, count) + 1).astype(int)[:-1]
    sizes = np.diff([*edges, count])
    names = {"tokens": "tokens", "train_time_s": "train_time_s", "train_loss": "loss"}
    return {
        short: np.add.reduceat(columns[name][known], edges) / sizes for name, short in names.items()
    }


def _validation(runs: list[dict[str, Floats]]) -> list[tuple[float, float, float]]:
    """(tokens, train_time_s, val_loss) of evaluations that every run made, as means."""
    points_at: dict[float, list[tuple[float, float]]] = {}
    for run in runs:
        for index in np.flatnonzero(np.isfinite(run["val_loss"])):
            point = (float(run["train_time_s"][index]), float(run["val_loss"][index]))
            points_at.setdefault(float(run["tokens"][index]), []).append(point)
    return [
        (tokens, *(float(mean) for mean in np.mean(points, axis=0)))  # type: ignore[misc]
        for tokens, points in sorted(points_at.items())
        if len(points) == len(runs)
    ]
