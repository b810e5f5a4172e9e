"""Plans one kind of evidence for one metric: how many runs or launches, when to look, and which
harm they can detect. Pure.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from harness.comparison.margins import Margin
from harness.gate.metrics import information_shares
from harness.gate.result import MAX_REPLICATES, Evidence, PartPlan, Rule
from harness.metrics import SPEEDS
from harness.stats.ab_noise import OWN_LAUNCHES
from harness.stats.decision import PAIRED_SHARE, PAIRS
from harness.stats.distributions import t_quantile
from harness.stats.inference import detectable
from harness.stats.power import BETA, Rates, rates
from harness.stats.sequential import look_tails, looks, mixture_tail
from harness.stats.spending import Reading

LAUNCHES = 3  # resolve half the speed margin at the noise that published runs show
RUNS_WITHOUT_NOISE = 2  # twice as many of each side, where no baseline shows the spread


@dataclass(frozen=True, kw_only=True)
class PlanningNoise:
    """What is known before the gate of the SD of one run or launch."""

    sd: float | None
    df: float
    own: bool  # no row in the noise model: estimated from the gate's own data at every look


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is fixed for one part: the reading and its error rate, when to look, how long."""

    reading: Reading
    rule: Rule = "group_sequential"
    budget_s: float | None = None


def plan_part(
    evidence: Evidence,
    metric: str,
    n_a: int | None,
    margin: Margin | None,
    noise: PlanningNoise,
    unit_s: float | None,
    options: PlanOptions,
    *,
    default: int | None = None,
) -> PartPlan:
    """Launches, runs against `n_a` runs of the baseline, or runs of both sides for an `n_a` of
    None; none without a margin.

    `default`: where no number in reach has power, or no noise is known; by default 2 n_a.
    """

    def probabilities(n: int) -> tuple[Rates, float]:
        assert margin is not None
        return _probabilities(evidence, noise, margin.value, options, n, n_a)

    count, n_for_power = 0, None
    if margin is not None:
        if noise.sd is not None:
            start = LAUNCHES if evidence == "launches" else 1
            n_for_power = _fewest(lambda n: probabilities(n)[0], start)
        count = n_for_power or default or 2 * (n_a or RUNS_WITHOUT_NOISE)
        count = MAX_REPLICATES if options.rule == "always_valid" else count
        count = _affordable(count, unit_s, options.budget_s)
    both, mde = probabilities(count) if count and noise.sd is not None else (None, math.nan)
    return PartPlan(
        evidence=evidence,
        metric=metric,
        n_a=n_a or count,
        n_b=count,
        looks=list(looks(count)) if count and options.rule == "group_sequential" else [],
        unit_s=unit_s,
        margin=margin.value if margin else None,
        sd=noise.sd,
        df=noise.df if noise.sd is not None else None,
        minimum_detectable=None if math.isnan(mde) else mde,
        p_pass_if_unchanged=both.passes if both else None,
        p_regression_at_margin=both.regression if both else None,
        n_for_power=n_for_power,
        notes=_notes(metric, margin, noise, count, n_for_power),
        rule=options.rule,
        seen=options.reading.seen,
    )


def _probabilities(
    evidence: Evidence,
    noise: PlanningNoise,
    margin: float,
    options: PlanOptions,
    n: int,
    n_a: int | None,
) -> tuple[Rates, float]:
    """Pass and regression rates at the last look, after `n`, and the minimum detectable harm.

    Earlier looks can only raise the rates.
    """
    assert noise.sd is not None
    schedule, alpha = looks(n), options.reading.rate
    se, shares = noise.sd * math.sqrt(1 / (n_a or n) + 1 / n), information_shares(n_a, schedule)
    if evidence == "replicates" and n_a is None and n >= PAIRS:
        alpha *= 1 - PAIRED_SHARE  # both sides have the same seeds: the rest is that of pairs
    if evidence == "launches":
        df = _launch_df(noise, n, options.rule)
    else:
        df = (n_a or n) + n - 2 if noise.own else noise.df
    if options.rule == "always_valid":
        tail = mixture_tail(se, margin / 2, alpha)
    elif df > 0:
        own = [max(0.0, df - (n - k)) for k in schedule] if noise.own else None
        tail = look_tails(alpha, shares, own)[-1]
    else:
        tail = alpha
    passes = rates(0.0, margin, se, df, tail).passes
    both = Rates(passes=passes, regression=rates(margin, margin, se, df, tail).regression)
    mde = detectable(t_quantile(1 - tail, df), df, se, BETA) if df > 0 else math.nan
    return both, mde


def _launch_df(noise: PlanningNoise, n: int, rule: Rule) -> float:
    uses_row = not noise.own and (n < OWN_LAUNCHES or rule == "always_valid")
    return noise.df if uses_row else n - 1


def _fewest(probabilities: Callable[[int], Rates], start: int) -> int | None:
    """The fewest for which a pass without change and a regression at the margin both have power
    1 - BETA; None where MAX_REPLICATES are not enough. Bisection: more runs never lower both.
    """

    def enough(n: int) -> bool:
        both = probabilities(n)
        return min(both.passes, both.regression) >= 1 - BETA

    if not enough(MAX_REPLICATES):
        return None
    return start + bisect_left(range(start, MAX_REPLICATES), True, key=enough)


def _affordable(count: int, unit_s: float | None, budget_s: float | None) -> int:
    if unit_s is None or budget_s is None or unit_s <= 0:
        return min(count, MAX_REPLICATES)
    return min(count, MAX_REPLICATES, int(budget_s / unit_s))


def _notes(
    metric: str, margin: Margin | None, noise: PlanningNoise, n: int, n_for_power: int | None
) -> list[str]:
    notes = []
    unit = "launches" if metric in SPEEDS else "runs"
    if margin is None:
        notes.append(f"{metric} has no margin: set one with --margin {metric}=M")
    if noise.sd is None:
        notes.append(f"the noise model has no row for it: the {unit} have to show their own noise")
    elif margin is not None and n_for_power is None:
        hint = "a quieter machine" if metric in SPEEDS else "more replicates in the baseline"
        notes.append(f"{MAX_REPLICATES} {unit} do not give 90 % power: that needs {hint}")
    if n_for_power is not None and n < n_for_power:
        notes.append(f"90 % power needs {n_for_power} {unit}; the budget has room for {n}")
    return notes
