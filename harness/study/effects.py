"""What an attribution says: one effect for each arm and metric, and all that must stand beside it.

Every number has its n, its interval and the smallest effect that could have been seen, or the
reason why it has none. `attribution` computes these from a study and its records; report/ prints
them, and report.json holds exactly this. An estimate is always *arm minus base*: what happens when
the trick of a leave-one-out arm is removed, when that of an add-one-in arm is added. Pure data.
"""

import math
from typing import Any, Literal

import msgspec

from harness.metrics import METRICS, Scale
from harness.results.study_plan import Role

Method = Literal["pooled", "welch", "blocks", "delta", "exact"]

CHANGE_WORDS: dict[str, str] = {
    "leave_one_out": "removed",
    "add_one_in": "added",
    "explicit": "changed",
}


TIME_PARTS = ("quality", "speed", "total")


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against the base in one metric.

    `estimate` is None when `missing` says why, or when the effect lies beyond what the horizons
    measured: then `beyond` is the limit it exceeds (above it when positive, below when negative).
    `low` and `high` are None when `no_interval` says why. Log effects are natural logarithms.
    """

    metric: str
    scale: Scale
    n_base: int
    n_arm: int
    base_mean: float | None = None
    arm_mean: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    df: float | None = None
    p: float | None = None
    minimum_detectable: float | None = None
    outside: bool | None = None
    method: Method = "pooled"
    beyond: float | None = None
    missing: str | None = None
    no_interval: str | None = None
    left_out: list[str] = []

    @property
    def shown(self) -> float | None:
        """The estimate as it is printed: relative for log effects."""
        return self.fraction(self.estimate)

    def fraction(self, value: float | None) -> float | None:
        """A log effect as a relative change (0.01 is one percent more); others unchanged."""
        if value is None or self.scale != "log":
            return value
        return math.expm1(value)


class TimeToTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Change of ln(time to the base's final loss): quality + speed = total, exactly."""

    quality: Effect
    speed: Effect
    total: Effect


class ExactChange(msgspec.Struct, frozen=True, kw_only=True):
    """A counted quantity: the same in every run, so without noise or interval."""

    base: float | None
    arm: float | None

    @property
    def delta(self) -> float | None:
        """Arm minus base, None where either is not known."""
        return None if self.base is None or self.arm is None else self.arm - self.base


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: what became of its runs and what it changes."""

    name: str
    role: Role
    trick: str | None
    change: str  # removed | added | changed
    planned: int
    statuses: dict[str, int]  # status of the last attempt -> runs; "not run" for those without one
    reasons: list[str]  # why runs did not complete
    parameters: ExactChange
    flops_per_token: ExactChange
    effects: dict[str, Effect]
    time_to_target: TimeToTarget | None = None
    warnings: list[str] = []

    def helps(self, metric: str) -> float | None:
        """The effect in `metric`, positive where the trick helps; None where it is not known."""
        effect = self.effects.get(metric)
        if effect is None or effect.estimate is None:
            return None
        sign = 1 if self.change == "removed" else -1
        return effect.estimate * METRICS[metric].harm * sign

    @property
    def completed(self) -> int:
        """Runs that reached their end."""
        return self.statuses.get("completed", 0)


class ArmNoise(msgspec.Struct, frozen=True, kw_only=True):
    """The spread between runs of one arm in one metric; log metrics in logarithms.

    `arms` counts the comparisons that share the correction: arms that have an interval.
    """

    metric: str
    arms: int = 0
    sd: float | None
    df: int
    equal_variances: bool = True
    brown_forsythe_p: float | None = None


class HorizonSlope(msgspec.Struct, frozen=True, kw_only=True):
    """The base's final loss against ln(tokens): what training longer or shorter buys."""

    metric: str
    slope: float | None
    se: float | None
    df: int
    horizons: list[float]  # those with completed runs
    runs: int
    reach: float | None = None  # largest |ln(tokens / base tokens)| measured
    missing: str | None = None


class NoEffectTrick(msgspec.Struct, frozen=True, kw_only=True):
    """A trick whose effect lies inside the margin, and what keeping it costs.

    `pays_in` names the metrics without a margin in which it helps, beyond their noise: a reason to
    keep it all the same.
    """

    trick: str
    arm: str
    inside: dict[str, float]  # metric -> the margin its interval lies inside of
    pays_in: list[str]
    lines: int
    parameters: float | None
    peak_memory_bytes: float | None
    compile_s: float | None


class Winner(msgspec.Struct, frozen=True, kw_only=True):
    """The largest effect of the study, and the same after shrinking it for having been picked."""

    arm: str
    metric: str
    estimate: float
    shrunk: float


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One planned run and what came of it."""

    plan_id: str
    arm: str
    seed: int
    block: int | None
    status: str
    reason: str | None = None
    attempts: int = 0
    session: int | None = None
    environment_id: str | None = None
    concurrent_runs: int | None = None
    started_at: float | None = None
    wall_s: float | None = None
    overhead_s: float | None = None
    gpus: int | None = None
    metrics: dict[str, float | None] = {}


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What the study used: every attempt it started itself, failed ones too."""

    runs: int
    reused_runs: int  # completed earlier, for another study: not paid here
    wall_s: float
    gpu_s: float
    usd_per_gpu_hour: float | None
    usd: float | None
    overhead_per_run_s: float | None


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer of one study."""

    study: str
    question: str
    headlines: list[str]  # what the reader must know first: toy scale, pin: own
    alpha: float
    correction: str
    margin: dict[str, float]
    primary: str
    speed: str
    base: str
    base_values: dict[str, float | None]
    base_completed: int
    base_planned: int
    planned: int
    completed: int
    arms: list[ArmResult]
    noise: dict[str, ArmNoise]
    slope: HorizonSlope | None
    no_effect_tricks: list[NoEffectTrick] | None  # None: no margin is set
    winner: Winner | None
    runs: list[RunRow]
    environments: dict[str, dict[str, Any]]
    price: Price
    warnings: list[str]
