"""The result of a comparison: one type for compare, gate, study, search and full job.

Differences are always B minus A: candidate minus baseline, or an arm of a study minus its base.
Pure data; `harness.comparison.engine` computes it and `harness.report` prints it.
"""

import math
from typing import Literal

import msgspec

from harness import errors
from harness.comparison.core import PairedCore
from harness.comparison.outliers import Outlier
from harness.metrics import METRICS, Direction, Scale
from harness.stats.decision import Method, Outcome

EXIT_CODES: dict[Outcome, int] = {
    "pass": errors.PASS,
    "inconclusive": errors.INCONCLUSIVE,
    "regression": errors.REGRESSION,
}

Replicate = Literal["run", "candidate run", "launch"]
"""What n counts. More runs are made of both sides, or of the candidate against a baseline."""


class MetricResult(msgspec.Struct, frozen=True, kw_only=True):
    """Side B against side A in one metric.

    `estimate`, `low`, `high`, `se`, `sd`, `margin` and `minimum_detectable` are in the unit of the
    metric, or natural logarithms where `scale` is log; `means` are not. `low` and `high` are the
    limits of the rule that `rule` names. `outcome` is None for a metric that is informational.
    `reason` is why there is no estimate, no interval, or no decision. `beyond` is set where an
    effect lies outside the range that was measured: the limit that it exceeds.
    """

    metric: str
    title: str
    unit: str
    scale: Scale
    better: Direction | None  # None: the direction is unknown, and the metric is not judged
    n: tuple[int, int]
    means: tuple[float | None, float | None] = (None, None)
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    df: float | None = None
    p: float | None = None  # two-sided and corrected, where arms of a study share a correction
    sd: float | None = None  # of one run, or of one process of a launch
    method: Method | None = None
    noise_from: str = ""
    rule: str = ""
    margin: float | None = None
    margin_from: str = ""
    minimum_detectable: float | None = None
    outside: bool | None = None  # 0 is outside the interval, and the effect is above resolution
    outcome: Outcome | None = None
    small_harm: bool = False
    more_runs: int | None = None  # of each side that grows, if the estimate is the true difference
    beyond: float | None = None
    reason: str | None = None
    left_out: list[str] = []  # runs that were not compared, and why
    notes: list[str] = []
    replicate: Replicate = "run"

    @property
    def n_base(self) -> int:
        """Runs of side A."""
        return self.n[0]

    @property
    def n_arm(self) -> int:
        """Runs of side B."""
        return self.n[1]

    @property
    def base_mean(self) -> float | None:
        """Mean of side A; geometric for speeds of a study."""
        return self.means[0]

    @property
    def arm_mean(self) -> float | None:
        """Mean of side B."""
        return self.means[1]

    @property
    def missing(self) -> str | None:
        """Why there is no estimate."""
        return self.reason if self.estimate is None and self.beyond is None else None

    @property
    def no_interval(self) -> str | None:
        """Why there is an estimate and no interval."""
        return self.reason if self.estimate is not None and self.low is None else None

    @property
    def improved(self) -> bool:
        """Even the worse end of the interval is better than no change."""
        return bool(self.outside) and max(self._harms(), default=0.0) < 0

    @property
    def worsened(self) -> bool:
        """Even the better end of the interval is worse than no change."""
        return bool(self.outside) and min(self._harms(), default=0.0) > 0

    def _harms(self) -> list[float]:
        return [self.harm(end) for end in (self.low, self.high) if end is not None]

    def harm(self, value: float) -> float:
        """A difference in the direction that is worse; 0 where the direction is unknown."""
        return {"lower": value, "higher": -value, None: 0.0}[self.better]

    def fraction(self, value: float | None) -> float | None:
        """A log difference as a relative change (0.01 is one percent more); others unchanged."""
        if value is None or self.scale != "log":
            return value
        return math.expm1(value)

    def resolves(self, estimate: float) -> bool:
        """Whether a difference reaches the resolution of the metric."""
        return self.metric not in METRICS or METRICS[self.metric].resolves(estimate)


class ComparedSide(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one side. `broken`: why runs did not reach their end."""

    name: str
    runs: int
    whole: int
    family: str
    steps: int
    scale: str | None
    gpus: list[str]
    sources: list[str]
    broken: list[str]


class TargetResult(msgspec.Struct, frozen=True, kw_only=True):
    """The one-sample test of a target on one side: is the mean beyond it with p below `level`?

    `p` and `sd` are None where the runs show no noise; `runs_needed`: the fewest with which this
    mean and SD would pass.
    """

    side: str
    metric: str
    target: float
    level: float
    n: int
    mean: float
    sd: float | None
    p: float | None
    runs_needed: int | None

    @property
    def passes(self) -> bool:
        """Whether the test passes."""
        return self.p is not None and self.p < self.level


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of two sides of runs: the outcome of the worst metric, and every metric.

    `outliers`: runs far from their side, and `without_outliers` the metrics without them; the
    outcome is that of all runs. `findings`: what was found about the runs, for the first lines of a
    report; `notes`: caveats.
    """

    sides: tuple[ComparedSide, ComparedSide]
    outcome: Outcome
    reason: str
    alpha: float  # over all readings of the question
    seen: int = 0  # readings before this one
    metrics: list[MetricResult]
    notes: list[str]
    targets: list[TargetResult] = []
    findings: list[str] = []
    outliers: list[Outlier] = []
    without_outliers: list[MetricResult] | None = None
    core: PairedCore | None = None  # the same two sides on the examples of CORE

    @property
    def exit_code(self) -> int:
        """That of the worst metric."""
        return EXIT_CODES[self.outcome]

    @property
    def more_runs(self) -> int | None:
        """The runs a side that are expected to decide all metrics; None where there are none."""
        return max((one.more_runs for one in self.metrics if one.more_runs), default=None)
