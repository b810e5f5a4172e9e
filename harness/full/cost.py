"""What a full run takes in time and money, from a step test on the very machine.

Signatures first; the bodies follow.
"""

from collections.abc import Sequence

import msgspec

from harness.full.forecast import LEVEL, Estimate
from harness.verdict import Known


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of steps of one shape: how many the job has, and times measured of some."""

    name: str
    steps: int
    step_s: list[float]  # measured; of the job's first eleven none, which the field does not count


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Something beside steps: start-up, compilation, evaluations, CORE, checkpoints."""

    name: str
    count: int
    each_s: float
    relative_sd: float  # of one of them
    rests_on: str  # where `each_s` comes from


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals of what a run takes. `train_s` as the field counts it, `wall_s` with all parts."""

    train_s: Estimate
    wall_s: Estimate
    usd: Estimate | None
    parts: list[tuple[str, float]]  # seconds by part, steps first
    notes: list[str]


def time_and_cost(
    stages: Sequence[Stage],
    parts: Sequence[Part],
    *,
    ranks: int,
    launch: Known | None,
    host: Known | None = None,
    price_usd_per_gpu_hour: float | None = None,
    level: float = LEVEL,
) -> Cost:
    """Time and money. `launch`, `host`: SDs of log speeds from the ledger; `host` only where the
    steps were measured on another machine than the job's. Raises ForecastError without steps."""
    raise NotImplementedError
