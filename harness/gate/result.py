"""What a gate says: the schema of `harness gate --json`, of stored gates, of every rendering.

One verdict a metric, each with the evidence it rests on, and the worst of them for the whole. A
gate that could not be carried out is a result too, with its reason and no metrics, so that
whoever reads the JSON never has to read a terminal. Pure data; after `judgement`, before everything
that runs, stores or shows gates.
"""

from typing import Any, Literal

import msgspec

from harness import errors
from harness.compare.core import PairedCore
from harness.compare.result import MetricResult
from harness.gate.ab_interleaved import AbLaunch, Form
from harness.stats.decision import Outcome

FORMAT = 1
SPEED = "tokens_per_s"
TRAJECTORY = "loss_trajectory"

GateOutcome = Literal["pass", "regression", "inconclusive", "could not run"]
Evidence = Literal["replicates", "launches", "trajectory"]
Claim = Literal["refactor", "systems", "ml"]
Rule = Literal["looks", "open"]
"""When evidence is judged: at looks planned before, or after each piece of it for as long as the
budget lasts. Both keep the error rate."""

MOST = 64  # runs or launches that one gate ever buys

EXIT_CODES: dict[GateOutcome, int] = {
    "pass": errors.PASS,
    "inconclusive": errors.INCONCLUSIVE,
    "regression": errors.REGRESSION,
    "could not run": errors.COULD_NOT_RUN,
}
WORST_FIRST: tuple[GateOutcome, ...] = ("could not run", "regression", "inconclusive", "pass")


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One side: the code and the configuration that were measured.

    `ref` is what the command line named, `commit` what it was then; both None for a stored
    baseline, of which `baseline` has the name.
    """

    code_id: str
    config_id: str
    ref: str | None = None
    commit: str | None = None
    baseline: str | None = None
    set: dict[str, Any] = {}


class MetricVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: the numbers, and how the gate came to them.

    `judged` has effect, interval, margin, n, smallest detectable effect and outcome (None: only
    shown); its differences are B minus A, A the baseline or the base ref. `evidence` says what n
    counts: replicates (runs a side), launches (pairs of processes), a trajectory (steps).
    """

    judged: MetricResult
    evidence: Evidence
    look: int  # the look that this is, of `looks` there may be
    looks: int
    rule: Rule = "looks"
    unconfirmed: bool = False  # a slowdown that one session has shown so far
    confirmed_by: str | None = None  # the earlier gate that showed it too
    small_harms: float | None = None  # sum since the last baseline, in the direction of harm

    @property
    def outcome(self) -> Outcome | None:
        """The verdict that counts for the gate."""
        return self.judged.outcome


class Looks(msgspec.Struct, frozen=True, kw_only=True):
    """When evidence is judged: after so many pieces of it, or after each where the rule is open."""

    looks: list[int]  # none are planned where the rule is open
    rule: Rule = "looks"

    @property
    def count(self) -> int:
        """How many looks there may be."""
        return MOST if self.rule == "open" else len(self.looks)

    def after(self, n: int) -> int | None:
        """The number of the look after `n` runs or launches; None between two looks."""
        if self.rule == "open":
            return n
        return self.looks.index(n) + 1 if n in self.looks else None


class PartPlan(Looks, frozen=True, kw_only=True):
    """What one kind of evidence will take and be able to say. Seconds and SDs None where unknown.

    `n_a`, `n_b`: runs or launches a side at the last look, or as far as the budget is expected to
    reach where the rule is open. `passes` is P(pass | no change), `regression`
    P(regression | harm of one margin), both with the limits of the last look: looks before it can
    only add to them. `until_s`: the part of the budget after which nothing more is begun.
    """

    evidence: Evidence
    metric: str
    n_a: int
    n_b: int
    unit_s: float | None
    margin: float | None
    sd: float | None
    df: float | None
    minimum_detectable: float | None
    passes: float | None
    regression: float | None
    n_for_power: int | None = None  # n_b at which passes and regression both reach .9
    turns: Form | None = None  # of launches: what takes turns in them
    notes: list[str] = []
    until_s: float | None = None

    @property
    def seconds(self) -> float | None:
        """At most: every look taken."""
        if not self.n_b:
            return 0.0
        return None if self.unit_s is None else self.unit_s * self.n_b

    @property
    def most(self) -> int:
        """How many are bought at most: as planned, or as many as fit into the time there is."""
        return MOST if self.rule == "open" else self.n_b


class GatePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A gate before it spends anything."""

    parts: list[PartPlan]
    budget_s: float | None
    alpha: float
    price_usd_per_hour: float | None = None
    gpus: int = 0

    @property
    def seconds(self) -> float | None:
        """Of all parts; None where one is unknown."""
        known = [part.seconds for part in self.parts]
        return None if any(one is None for one in known) else sum(one or 0.0 for one in known)


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole gate. `key` names what was compared, so that another session finds this one."""

    format: int = FORMAT
    key: str
    number: int  # the how manieth gate of this key in its store
    outcome: GateOutcome
    reason: str
    alpha: float
    claim: Claim
    a: Subject
    b: Subject
    metrics: list[MetricVerdict]
    plan: GatePlan | None = None
    baseline_hash: str | None = None  # of the entry that was compared with
    candidates: list[str] = []  # `plan_id/attempt` of the runs behind it: not fresh any more
    notes: list[str] = []
    log_tail: str | None = None  # of a side that failed
    launches: list[AbLaunch] = []  # what the speed rests on, and what the noise model learns from
    scale: str | None = None  # of the recipe, in the noise model's words
    device: str | None = None
    environment_id: str = ""
    boot_id: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    core: PairedCore | None = None  # baseline and candidate on the same examples: shown only

    @property
    def exit_code(self) -> int:
        """That of the worst metric: 4 > 10 > 3 > 0."""
        return EXIT_CODES[self.outcome]


def speed_of(result: GateResult) -> MetricVerdict | None:
    """The verdict on speed, where there is one."""
    return next((one for one in result.metrics if one.judged.metric == SPEED), None)


def worst(outcomes: list[GateOutcome]) -> GateOutcome:
    """The outcome of the whole: the worst there is; inconclusive where nothing was judged."""
    return next((one for one in WORST_FIRST if one in outcomes), "inconclusive")


def as_json(result: GateResult | GatePlan) -> str:
    """As `--json` prints it: a result with its exit code, or a plan; what is not known is null."""
    value = msgspec.to_builtins(result)
    if isinstance(result, GateResult):
        value["exit_code"] = result.exit_code
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()
