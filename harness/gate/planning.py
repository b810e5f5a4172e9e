"""Plans a gate before it spends anything: how many launches and runs, when to look, what that costs
and which harm it can detect.

Everything is fixed here and `measurement` keeps to it: three looks within the budget or an
always-valid test, the margins, and the noise that they are compared with. A gate under which no
decision is likely is blocked instead of being run. Pure.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from harness.comparison.margins import Margin, default_margin, stated_margin
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.format import duration, plural
from harness.gate import ab_launcher, history
from harness.gate.baseline import Baseline
from harness.gate.measurement import launch_row, speed_margin
from harness.gate.metrics import information_shares, quality_row
from harness.gate.result import (
    MAX_REPLICATES,
    SPEED,
    Evidence,
    GatePlan,
    GateResult,
    PartPlan,
    Rule,
)
from harness.gate.sides import PreparedGate
from harness.metrics import QUALITY, SPEEDS, duplicates
from harness.results.logs.from_store import logged_runs
from harness.results.recipe import is_full_scale
from harness.results.record import Record
from harness.stats.ab_noise import OWN_LAUNCHES
from harness.stats.distributions import t_quantile
from harness.stats.inference import detectable, pool
from harness.stats.power import BETA, Rates, rates
from harness.stats.sequential import look_tails, looks, mixture_tail
from harness.stats.spending import Reading

LAUNCHES = 3  # resolve half the speed margin at the noise that published runs show
LAUNCHES_WITHOUT_NOISE = 2 * LAUNCHES  # where only their own spread is known
MIN_PROBABILITY = 0.1  # of a pass without change, or of detecting a margin: below both, run nothing


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


# --- the whole gate -------------------------------------------------------------------------------


def plan_gate(
    prepared: PreparedGate, noise_model: NoiseModel, stored: Sequence[GateResult]
) -> GatePlan:
    """The plan of a gate; `stored`: earlier gates, from which the duration of a launch is taken.

    Speed is planned first and leaves the quality runs the time they need for a decision, up to half
    of the budget. Under the always-valid rule launches get half of the budget.
    """
    request, parts, left_s = prepared.request, [], prepared.request.budget_s
    if prepared.a is not None:
        part = _speed_part(prepared, noise_model, stored)
        parts.append(part)
        if left_s is not None:
            left_s = max(0.0, left_s - (part.seconds or 0.0))
    if prepared.compares_quality and request.baseline is not None:
        options = PlanOptions(
            reading=_reading(prepared, "replicates", stored), rule=request.rule, budget_s=left_s
        )
        parts.append(_quality_part(prepared, request.baseline, noise_model, options))
    plan = GatePlan(
        parts=parts,
        budget_s=request.budget_s,
        alpha=request.alpha,
        price_usd_per_hour=request.price_usd_per_hour,
        gpus=request.baseline.gpus if request.baseline else 1,
    )
    return msgspec.structs.replace(plan, blocked=why_no_decision(plan))


def _speed_part(
    prepared: PreparedGate, noise_model: NoiseModel, stored: Sequence[GateResult]
) -> PartPlan:
    request, stop_after_s = prepared.request, _launches_stop_after_s(prepared)
    budget_s = stop_after_s
    if stop_after_s is None:
        budget_s = _budget_for_launches_s(prepared, noise_model, stored)
    part = plan_speed(
        launch_row(prepared.bench, noise_model, prepared.mode),
        speed_margin(request),
        ab_launcher.launch_seconds(prepared, stored),
        PlanOptions(
            reading=_reading(prepared, "launches", stored), rule=request.rule, budget_s=budget_s
        ),
    )
    if prepared.ab is not None:
        notes = [prepared.ab.note, *part.notes]
        part = msgspec.structs.replace(part, ab_mode=prepared.ab.mode, notes=notes)
    return msgspec.structs.replace(part, stop_after_s=stop_after_s)


def _reading(prepared: PreparedGate, evidence: Evidence, stored: Sequence[GateResult]) -> Reading:
    seen = history.readings(stored, prepared.key, evidence)
    return Reading(alpha=prepared.request.alpha, seen=seen)


def _launches_stop_after_s(prepared: PreparedGate) -> float | None:
    """Half of the budget where always-valid launches are followed by runs, else None."""
    request = prepared.request
    if request.rule != "always_valid" or not prepared.compares_quality:
        return None
    return None if request.budget_s is None else request.budget_s / 2


def _budget_for_launches_s(
    prepared: PreparedGate, noise_model: NoiseModel, stored: Sequence[GateResult]
) -> float | None:
    """The budget less the time of runs that can reach a decision within half of it."""
    request = prepared.request
    if request.budget_s is None or not prepared.compares_quality or request.baseline is None:
        return request.budget_s
    half = PlanOptions(
        reading=_reading(prepared, "replicates", stored),
        rule=request.rule,
        budget_s=request.budget_s / 2,
    )
    runs = _quality_part(prepared, request.baseline, noise_model, half)
    reserved_s = runs.seconds if decision_is_likely(runs) else None
    return request.budget_s - (reserved_s or 0.0)


def _quality_part(
    prepared: PreparedGate, baseline: Baseline, noise_model: NoiseModel, options: PlanOptions
) -> PartPlan:
    records = baseline.now.records
    run_s = math.fsum(record.wall_s for record in records) / len(records)
    margins = prepared.request.margins
    return plan_quality(records, noise_model, margins, is_full_scale(records[0]), run_s, options)


def why_no_decision(plan: GatePlan) -> str | None:
    """Why no decision is likely under this plan; None where one is, or where it is unknown."""
    if any(decision_is_likely(part) for part in plan.parts):
        return None
    reasons = [_obstacle(part) for part in plan.parts]
    return "no decision is likely, so nothing is started: " + "; ".join(reasons)


def decision_is_likely(part: PartPlan) -> bool:
    """Whether this part is likely to reach a decision; True where it is unknown."""
    if not part.n_b or part.margin is None:
        return False
    if part.p_pass_if_unchanged is None or part.p_regression_at_margin is None:
        return part.n_a + part.n_b > 2 and part.n_b > (1 if part.evidence == "launches" else 0)
    return max(part.p_pass_if_unchanged, part.p_regression_at_margin) >= MIN_PROBABILITY


def _obstacle(part: PartPlan) -> str:
    unit = "launch" if part.evidence == "launches" else "run"
    if part.margin is None:
        return part.notes[0]
    if not part.n_b:
        return f"one {unit} takes {duration(part.unit_s)}, more than the budget leaves"
    number = plural(part.n_b, unit, "launches" if unit == "launch" else "")
    if part.p_pass_if_unchanged is None:
        return f"{number} cannot show their own noise"
    return f"{number} would pass an unchanged candidate {part.p_pass_if_unchanged:.0%} of the time"


# --- one part -------------------------------------------------------------------------------------


def plan_speed(
    row: NoiseRow | None, margin: Margin, unit_s: float | None, options: PlanOptions
) -> PartPlan:
    """Launches of a speed A/B within the budget. `row`: the noise model's for one launch."""
    noise = _noise_of_row(row)
    default = LAUNCHES_WITHOUT_NOISE if noise.sd is None else LAUNCHES
    return _plan_part("launches", SPEED, None, margin, noise, unit_s, options, default=default)


def plan_quality(
    baseline: Sequence[Record],
    noise_model: NoiseModel,
    margins: Mapping[str, float],
    full_scale: bool,
    unit_s: float | None,
    options: PlanOptions,
) -> PartPlan:
    """Runs of the candidate within the budget, for the judged metric that needs the most.

    A metric that no affordable number of runs can settle does not raise the number.
    """
    n_a, judged = len(baseline), judged_metrics(baseline, noise_model, margins, full_scale)
    if not judged:
        metric = _measured(baseline)[0]
        noise = _noise_of_runs(baseline, metric, quality_row(baseline, metric, noise_model))
        return _plan_part("replicates", metric, n_a, None, noise, unit_s, options)
    parts = []
    for metric, margin in judged.items():
        noise = _noise_of_runs(baseline, metric, quality_row(baseline, metric, noise_model))
        parts.append(_plan_part("replicates", metric, n_a, margin, noise, unit_s, options))
    likely = [part for part in parts if decision_is_likely(part)] or parts[:1]
    largest = max(likely, key=lambda part: part.n_b)
    fewer = [f"{part.metric} needs {part.n_b}" for part in likely if part.n_b < largest.n_b]
    return msgspec.structs.replace(largest, notes=[*largest.notes, *fewer])


def judged_metrics(
    baseline: Sequence[Record],
    noise_model: NoiseModel,
    margins: Mapping[str, float],
    full_scale: bool,
) -> dict[str, Margin]:
    """The quality metrics with an outcome in a gate, in order, with their margins."""
    chosen = {}
    for name in _measured(baseline):
        if name in margins:
            chosen[name] = stated_margin(name, margins[name])
            continue
        margin = default_margin(name, quality_row(baseline, name, noise_model), full_scale)
        if margin is not None:
            chosen[name] = margin
    redundant = duplicates(chosen, lambda name: True)
    return {
        name: margin for name, margin in chosen.items() if name not in redundant or name in margins
    }


def _measured(baseline: Sequence[Record]) -> list[str]:
    return [
        name for name in QUALITY if all(record.metrics.get(name) is not None for record in baseline)
    ]


def _noise_of_row(row: NoiseRow | None) -> PlanningNoise:
    if row is None:
        return PlanningNoise(sd=None, df=0.0, own=True)
    return PlanningNoise(sd=row.sd, df=row.df, own=False)


def _noise_of_runs(baseline: Sequence[Record], metric: str, row: NoiseRow | None) -> PlanningNoise:
    if row is not None:
        return _noise_of_row(row)
    own = pool([[run.metrics[metric] for run in logged_runs(baseline, "baseline")]])
    return PlanningNoise(sd=own.sd if own.df else None, df=float(own.df), own=True)


# --- one kind of evidence, one metric -------------------------------------------------------------


def _plan_part(
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
    """Launches, or runs against `n_a` runs of the baseline; none without a margin.

    `default`: where no number in reach has power, or no noise is known; for runs 2 n_a.
    """

    def probabilities(n: int) -> tuple[Rates, float]:
        assert margin is not None
        return _probabilities(noise, margin.value, options, n, n_a)

    count, n_for_power = 0, None
    if margin is not None:
        if noise.sd is not None:
            n_for_power = _fewest(lambda n: probabilities(n)[0], 1 if n_a else LAUNCHES)
        count = n_for_power or default or 2 * (n_a or 0)
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
    noise: PlanningNoise, margin: float, options: PlanOptions, n: int, n_a: int | None
) -> tuple[Rates, float]:
    """Pass and regression rates at the last look, after `n`, and the minimum detectable harm.

    Earlier looks can only raise the rates.
    """
    assert noise.sd is not None
    schedule, alpha = looks(n), options.reading.rate
    if n_a is None:
        se, df = noise.sd * math.sqrt(2 / n), _launch_df(noise, n, options.rule)
        shares = tuple(k / n for k in schedule)
    else:
        se, df = noise.sd * math.sqrt(1 / n_a + 1 / n), n_a + n - 2 if noise.own else noise.df
        shares = information_shares(n_a, schedule)
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
    low, high = start - 1, MAX_REPLICATES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


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
