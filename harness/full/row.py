"""The row of a full run: time to GPT-2 as nanochat's leaderboard counts it.

Signatures first; the bodies follow.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.baseline import Baseline
from harness.judgement import Comparison
from harness.ledger import Ledger
from harness.record import Record


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A completed record with the events of its run directory."""

    record: Record
    events: list[dict[str, Any]]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the leaderboard and what stands behind it; means over the runs."""

    reached: bool  # CORE above the target, as the field counts it
    target: float
    train_s: float  # without steps 0 to 10
    val_bpb: float
    core: float | None
    core_se: float | None
    core_se_from: str
    p_above: float | None  # that the recipe's CORE is above the target
    core_soft: float | None
    description: str
    date: str  # of the last run's end, UTC, as "Mar 14 2026"
    commit: str | None
    contributors: list[str]
    runs: int
    seeds: list[int]
    ranks: int
    gpu: str
    nodes: int
    steps: int
    tokens: int
    parameters: int | None
    wall_s: float
    usd: float | None
    tricks: list[str]
    environment: dict[str, str]
    plans: list[str]
    verdict: str | None
    notes: list[str]


def row(
    runs: Sequence[Run],
    *,
    target: float,
    description: str,
    commit: str | None,
    contributors: Sequence[str] = (),
    ledger: Ledger,
    price_usd_per_gpu_hour: float | None = None,
    verdict: Comparison | None = None,
    nodes: int = 1,
) -> Row:
    """The row of one run, or of several of one configuration. Raises RowError."""
    raise NotImplementedError


def field_time_s(events: Sequence[Mapping[str, Any]]) -> float:
    """Training time without steps 0 to 10. Raises RowError where a step is missing."""
    raise NotImplementedError


def against(baseline: Baseline, records: Sequence[Record], ledger: Ledger) -> Comparison:
    """The verdict on a job's runs against a stored baseline. Raises BaselineError, LogError."""
    raise NotImplementedError


def as_markdown(row: Row) -> str:
    """The line in the leaderboard's columns, under its head, and what stands behind it."""
    raise NotImplementedError


def as_json(row: Row) -> str:
    """All of it."""
    raise NotImplementedError
