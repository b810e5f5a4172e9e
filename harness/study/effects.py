"""The result of a study: a `MetricResult` for each arm and metric, and what must stand beside it.

Every number has its n, its interval, its rule and the smallest detectable effect, or the reason why
it has none. An estimate is always *arm minus base*: the change when the trick of a leave-one-out
arm is removed, or that of an add-one-in arm is added. Pure data: `attribution` computes it,
`harness.report.study` prints it, and report.json holds exactly this.
"""

from typing import Any

import msgspec

from harness.comparison.result import MetricResult
from harness.metrics import METRICS
from harness.results.study_plan import Role

CHANGES: dict[str, str] = {
    "leave_one_out": "removed",
    "add_one_in": "added",
    "explicit": "changed",
}


TIME_PARTS = ("quality", "speed", "total")


class TimeToTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Change of ln(time to the base's final loss): quality + speed = total, exactly."""

    quality: MetricResult
    speed: MetricResult
    total: MetricResult


class ExactChange(msgspec.Struct, frozen=True, kw_only=True):
    """A counted quantity: the same in every run, so without noise or interval."""

    base: float | None
    arm: float | None

    @property
    def delta(self) -> float | None:
        """Arm minus base, None where either is not known."""
        return None if self.base is None or self.arm is None else self.arm - self.base


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: how its runs ended, and its effect in each metric."""

    name: str
    role: Role
    trick: str | None
    change: str  # removed | added | changed
    planned: int
    statuses: dict[str, int]  # status of the last attempt -> runs; "not run" for those without one
    reasons: list[str]  # why runs did not complete
    parameters: ExactChange
    flops_per_token: ExactChange
    effects: dict[str, MetricResult]
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
    """The SD between runs of one arm in one metric; of logarithms for log metrics.

    `sd` is pooled over the arms, `lowest` and `highest` are those of single arms. `arms` counts the
    comparisons that share the correction: arms that have an interval.
    """

    metric: str
    arms: int = 0
    sd: float | None
    df: int
    lowest: float | None = None
    highest: float | None = None


class HorizonSlope(msgspec.Struct, frozen=True, kw_only=True):
    """The base's final loss against ln(tokens): what training longer or shorter buys.

    `slope` is that at the base's own length, `curvature` the coefficient of the square.
    """

    metric: str
    slope: float | None
    curvature: float | None
    se: float | None
    df: int
    horizons: list[float]  # those with completed runs
    runs: int
    reach: float | None = None  # largest |ln(tokens / base tokens)| measured
    missing: str | None = None


class NoEffectTrick(msgspec.Struct, frozen=True, kw_only=True):
    """A trick whose interval lies inside the margin, and what keeping it costs.

    `pays_in` names the metrics without a margin in which it helps beyond their noise: a reason to
    keep it.
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
    """The largest effect of the study, and the same shrunk for having been selected."""

    arm: str
    metric: str
    estimate: float
    shrunk: float


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One planned run and how it ended."""

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
    """What the study used: every attempt that it started itself, failed ones too."""

    runs: int
    reused_runs: int  # completed earlier, for another study: not part of this price
    wall_s: float
    gpu_s: float
    usd_per_gpu_hour: float | None
    usd: float | None
    overhead_per_run_s: float | None


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one study."""

    study: str
    question: str
    headlines: list[str]  # caveats on the whole study: toy scale, pin: own
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
