"""The noise model that a command uses: the shipped rows, those of a file, those derived from a
store's records and gates, and those of a baseline's replicates."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.comparison.noise_model import (
    MEASURED_DF,
    SHIPPED,
    NoiseModel,
    NoiseRow,
    measured_rows,
    read_rows,
)
from harness.gate import history
from harness.gate.baseline import Baseline
from harness.gate.history import NOISE_SOURCES
from harness.gate.result import SPEED, TRAJECTORY, GateResult
from harness.results.recipe import VarianceSource
from harness.results.store import Store
from harness.stats.ab_noise import summarize_launches
from harness.stats.inference import pool


def load_noise_model(file: Path, store: Store) -> NoiseModel:
    """The shipped rows, those of `file` where it exists, and those derived from a store."""
    rows = read_rows(file) if file.exists() else []
    return NoiseModel([*read_rows(SHIPPED), *rows, *derived_rows(store)])


def derived_rows(store: Store) -> list[NoiseRow]:
    """The rows derived from the records and gates of a store."""
    return with_gate_rows(measured_rows(store.records()), history.load(store))


def with_baseline_rows(
    noise_model: NoiseModel, baseline: Baseline | None, gates: Sequence[GateResult]
) -> NoiseModel:
    """The noise model of a gate: with rows from the baseline's replicates and from gates."""
    own = measured_rows(baseline.now.records) if baseline else []
    return NoiseModel(with_gate_rows([*noise_model.rows, *own], gates))


def with_gate_rows(others: Iterable[NoiseRow], gates: Sequence[GateResult]) -> list[NoiseRow]:
    """`others` and the rows derived from gates, which replace rows of the same key.

    A/B launches are more informative about speed than runs one after the other.
    """
    derived = [*launch_rows(gates), *trajectory_rows(gates)]
    replaced = {row.key for row in derived if row.df >= MEASURED_DF}
    return [*derived, *(row for row in others if row.key not in replaced)]


def launch_rows(gates: Sequence[GateResult]) -> list[NoiseRow]:
    """The SD of one launch by recipe, device and A/B mode."""
    groups: dict[tuple[str, str, VarianceSource], list[tuple[float, int]]] = defaultdict(list)
    for gate in gates:
        if len(gate.launches) > 1 and gate.scale and gate.device:
            launches = summarize_launches([one.ratios for one in gate.launches])
            source = NOISE_SOURCES[gate.launches[0].mode]
            members = groups[gate.scale, gate.device, source]
            members.append((launches.launch_sd, len(gate.launches)))
    rows = []
    for (scale, device, source), members in groups.items():
        df = sum(n - 1 for _, n in members)
        rows.append(
            NoiseRow(
                scale=scale,
                metric=SPEED,
                gpu=device,
                source=source,
                sd=math.sqrt(sum((n - 1) * sd**2 for sd, n in members) / df),
                df=df,
                runs=sum(n for _, n in members),
                groups=len(members),
                origin="measured",
                note="launches of gates",
            )
        )
    return rows


def trajectory_rows(gates: Sequence[GateResult]) -> list[NoiseRow]:
    """The SD of the loss at the last step of a trajectory, between launches of unchanged code.

    From gates of one code and configuration against itself; all launches use the same seed.
    """
    groups: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for gate in gates:
        same = (gate.a.code_id, gate.a.config_id) == (gate.b.code_id, gate.b.config_id)
        ends = [side[-1] for one in gate.launches for side in one.losses if side]
        if same and len(ends) > 1 and gate.scale and gate.device:
            groups[gate.scale, gate.device].append(ends)
    rows = []
    for (scale, device), members in groups.items():
        pooled = pool(members)
        rows.append(
            NoiseRow(
                scale=scale,
                metric=TRAJECTORY,
                gpu=device,
                source="nondeterminism",
                sd=pooled.sd,
                df=pooled.df,
                runs=sum(map(len, members)),
                groups=len(members),
                origin="measured",
                note="launches of unchanged code",
            )
        )
    return rows
