"""The schema of `harness gate --json` and of the gates that a store keeps.

One result per metric, with the evidence it rests on; the worst of them is the outcome of the gate.
A gate that could not run is a result too, with its reason and no metrics, so that a program reading
the JSON never has to parse terminal output. Data only: nothing here runs, stores or prints.
"""

from typing import Any, Literal

import msgspec

from harness import errors
from harness.comparison.core import PairedCore
from harness.comparison.result import MetricResult, TargetResult
from harness.gate.ab_interleaved import AbLaunch, AbMode
from harness.stats.decision import Outcome

FORMAT = 2  # 2: fields renamed (mode, dropped_windows, candidate_runs, the plan's probabilities)
SPEED = "tokens_per_s"
TRAJECTORY = "loss_trajectory"

GateOutcome = Literal["pass", "regression", "inconclusive", "could not run"]
Evidence = Literal["replicates", "launches", "trajectory"]
Claim = Literal["refactor", "systems", "ml"]
Rule = Literal["group_sequential", "always_valid"]
"""When evidence is evaluated: at looks that were planned, or after each run or launch until the
budget ends. Both rules keep the error rate alpha."""

MAX_REPLICATES = 64  # runs or launches in one gate

EXIT_CODES: dict[GateOutcome, int] = {
    "pass": errors.PASS,
    "inconclusive": errors.INCONCLUSIVE,
    "regression": errors.REGRESSION,
    "could not run": errors.COULD_NOT_RUN,
}
WORST_FIRST: tuple[GateOutcome, ...] = ("could not run", "regression", "inconclusive", "pass")


class SideIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The code and the configuration that were measured on one side.

    `ref` is the git ref from the command line and `commit` what it pointed to; both are None for a
    stored baseline, which `baseline` names. `set`: overrides of the configuration.
    """

    code_id: str
    config_id: str
    ref: str | None = None
    commit: str | None = None
    baseline: str | None = None
    set: dict[str, Any] = {}


class GateMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of a gate: its result, and how the gate obtained it.

    Differences in `result` are B minus A, where A is the baseline or the base ref. `evidence` names
    what n counts: replicates (runs of each side), launches (pairs of processes), a trajectory
    (steps).
    """

    result: MetricResult
    evidence: Evidence
    look: int  # the number of this look, of at most `looks`
    looks: int
    rule: Rule = "group_sequential"
    unconfirmed: bool = False  # a slowdown that only one session has shown so far
    confirmed_by: str | None = None  # the gate of an earlier session that showed it too
    small_harms: float | None = None  # sum since the last baseline; positive is worse

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of its result; None where it is informational."""
        return self.result.outcome


class LookSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """When evidence is evaluated: after these numbers of runs or launches, or after each one."""

    looks: list[int]  # empty under the always-valid rule
    rule: Rule = "group_sequential"

    @property
    def max_looks(self) -> int:
        """The largest possible number of looks."""
        return MAX_REPLICATES if self.rule == "always_valid" else len(self.looks)

    def look_after(self, n: int) -> int | None:
        """The number of the look after `n` runs or launches; None between two looks."""
        if self.rule == "always_valid":
            return n
        return self.looks.index(n) + 1 if n in self.looks else None


class PartPlan(LookSchedule, frozen=True, kw_only=True):
    """The plan for one kind of evidence. Seconds and SDs are None where unknown.

    `n_a`, `n_b`: runs or launches of each side at the last look, or as many as the budget is
    expected to allow under the always-valid rule. Both probabilities use the limits of the last
    look; earlier looks can only raise them. `stop_after_s`: nothing new is started after this part
    of the budget. `seen`: earlier gates of this question that left it undecided. `both`: runs of
    both sides are made, block by block; `unit_s` is then that of a block.
    """

    evidence: Evidence
    metric: str
    n_a: int
    n_b: int
    unit_s: float | None  # expected seconds of one run or launch
    margin: float | None
    sd: float | None
    df: float | None
    minimum_detectable: float | None
    p_pass_if_unchanged: float | None
    p_regression_at_margin: float | None  # where the true harm is one margin
    n_for_power: int | None = None  # n_b at which both probabilities reach 0.9
    ab_mode: AbMode | None = None  # launches only
    notes: list[str] = []
    stop_after_s: float | None = None
    seen: int = 0
    both: bool = False

    @property
    def seconds(self) -> float | None:
        """The longest duration: every look is taken."""
        if not self.n_b:
            return 0.0
        return None if self.unit_s is None else self.unit_s * self.n_b

    @property
    def max_n(self) -> int:
        """The most runs or launches: as planned, or as many as fit into the time."""
        return MAX_REPLICATES if self.rule == "always_valid" else self.n_b


class GatePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate will run. `blocked`: why it would start nothing, None where it would."""

    parts: list[PartPlan]
    budget_s: float | None
    alpha: float
    price_usd_per_hour: float | None = None
    gpus: int = 0
    blocked: str | None = None

    @property
    def seconds(self) -> float | None:
        """The longest duration of all parts; None where one is unknown."""
        known = [part.seconds for part in self.parts]
        return None if any(one is None for one in known) else sum(one or 0.0 for one in known)

    @property
    def exit_code(self) -> int:
        """Of `harness gate --plan`."""
        return errors.PASS if self.blocked is None else errors.COULD_NOT_RUN


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a gate. `key` identifies what was compared, so that other sessions find it."""

    format: int = FORMAT
    key: str
    number: int  # counts the gates of this key in a store, from 1; 0: nothing was started
    outcome: GateOutcome
    reason: str
    alpha: float
    claim: Claim
    a: SideIdentity
    b: SideIdentity
    metrics: list[GateMetric]
    targets: list[TargetResult] = []
    plan: GatePlan | None = None
    baseline_hash: str | None = None  # of the baseline entry that was compared with
    candidate_runs: list[str] = []  # `plan_id/attempt`; baseline promotion needs fresh runs
    base_runs: list[str] = []  # likewise, where no baseline has them
    notes: list[str] = []
    log_tail: str | None = None  # of a side that failed
    launches: list[AbLaunch] = []  # the noise model is derived from them too
    scale: str | None = None  # of the recipe, as the noise model names it
    device: str | None = None
    environment_id: str = ""
    boot_id: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    core: PairedCore | None = None  # both sides on the same examples: informational

    @property
    def exit_code(self) -> int:
        """Of the worst metric: 4, else 10, else 3, else 0."""
        return EXIT_CODES[self.outcome]


def speed_of(gate: GateResult) -> GateMetric | None:
    """The result for speed, where there is one."""
    return next((one for one in gate.metrics if one.result.metric == SPEED), None)


def worst(outcomes: list[GateOutcome]) -> GateOutcome:
    """The worst outcome; inconclusive where no metric has one."""
    return next((one for one in WORST_FIRST if one in outcomes), "inconclusive")
