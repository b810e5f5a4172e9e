"""A gate before it spends: how many launches and runs, when to look, what that costs and can say.

Everything is fixed here and kept by `rounds`: three looks within the budget or a test that is
open, the margins, the noise they are set against. A budget under which no verdict is likely is said
instead of being spent. Pure; after `judge`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from harness.compare.metrics import Margin, default_margin, given, same_story
from harness.compare.noise_model import QUALITY, TIMES, NoiseModel, NoiseRow
from harness.gate.ab_mode import AbMode
from harness.gate.metrics import quality_row, shares
from harness.gate.result import MOST, SPEED, Evidence, GatePlan, PartPlan, Rule
from harness.results.logs.from_store import logged_runs
from harness.results.record import Record
from harness.stats import mixture
from harness.stats.ab_noise import OWN_LAUNCHES
from harness.stats.distributions import t_quantile
from harness.stats.inference import detectable, pool
from harness.stats.power import BETA, Rates, rates
from harness.stats.sequential import look_tails, looks

LAUNCHES = 3  # resolve half the speed margin at the noise that published runs show
LAUNCHES_WITHOUT_NOISE = 2 * LAUNCHES  # where their own spread is all there is to go by
LEAST_CHANCE = (
    0.1  # of a pass without change, or of catching a margin: below both nothing is bought
)


@dataclass(frozen=True, kw_only=True)
class PlanningNoise:
    """What is known of the SD of one run or launch before the gate."""

    sd: float | None
    df: float
    own: bool  # no noise model row: estimated anew at every look


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the command line fixes of a part: error rate, when to look, how long."""

    alpha: float
    rule: Rule = "looks"
    budget_s: float | None = None


def speed_plan(
    row: NoiseRow | None, margin: Margin, unit_s: float | None, terms: Terms
) -> PartPlan:
    """Launches of a speed A/B within the budget."""
    noise = _of_row(row)

    def chances(n: int) -> tuple[Rates, float]:
        df = _launch_df(noise, n, terms.rule)
        return _chances(noise, math.sqrt(2 / n), margin.value, terms, looks(n), df)

    wanted = _fewest(lambda n: chances(n)[0], LAUNCHES) if noise.sd is not None else None
    count = max(LAUNCHES, wanted or 0) if noise.sd is not None else LAUNCHES_WITHOUT_NOISE
    count = _affordable(MOST if terms.rule == "open" else count, unit_s, terms.budget_s)
    return _part(
        "launches",
        SPEED,
        (count, count),
        unit_s,
        margin,
        noise,
        chances(count) if count and noise.sd is not None else None,
        wanted,
        terms,
    )


def _launch_df(noise: PlanningNoise, n: int, rule: Rule) -> float:
    kept = not noise.own and (n < OWN_LAUNCHES or rule == "open")
    return noise.df if kept else n - 1


def with_turns(part: PartPlan, turns: AbMode | None) -> PartPlan:
    """The plan of launches with the form that they take, and why."""
    if turns is None:
        return part
    return msgspec.structs.replace(part, turns=turns.form, notes=[turns.note, *part.notes])


def quality_plan(
    baseline: Sequence[Record],
    noise_model: NoiseModel,
    margins: Mapping[str, float],
    full_scale: bool,
    unit_s: float | None,
    terms: Terms,
) -> PartPlan:
    """Replicates of the candidate within the budget, for the judged metric that takes the most.

    A metric that no number in reach can settle takes none for that reason alone.
    """
    judged = judged_metrics(baseline, noise_model, margins, full_scale)
    if not judged:
        metric = _measured(baseline)[0]
        noise = _of_runs(baseline, metric, quality_row(baseline, metric, noise_model))
        n = (len(baseline), 0)
        return _part("replicates", metric, n, unit_s, None, noise, None, None, terms)
    parts = [
        _runs_plan(baseline, noise_model, metric, margin, unit_s, terms)
        for metric, margin in judged.items()
    ]
    likely = [part for part in parts if has_chance(part)] or parts[:1]
    most = max(likely, key=lambda part: part.n_b)
    fewer = [f"{part.metric} takes {part.n_b}" for part in likely if part.n_b < most.n_b]
    return msgspec.structs.replace(most, notes=[*most.notes, *fewer])


def _runs_plan(
    baseline: Sequence[Record],
    noise_model: NoiseModel,
    metric: str,
    margin: Margin,
    unit_s: float | None,
    terms: Terms,
) -> PartPlan:
    """Replicates for one metric."""
    n_a, size = len(baseline), margin.value
    noise = _of_runs(baseline, metric, quality_row(baseline, metric, noise_model))

    def chances(n: int) -> tuple[Rates, float]:
        df = n_a + n - 2 if noise.own else noise.df
        return _chances(noise, math.sqrt(1 / n_a + 1 / n), size, terms, looks(n), df, n_a)

    wanted = _fewest(lambda n: chances(n)[0], 1) if noise.sd is not None else None
    count = MOST if terms.rule == "open" else wanted or 2 * n_a
    count = _affordable(count, unit_s, terms.budget_s)
    return _part(
        "replicates",
        metric,
        (n_a, count),
        unit_s,
        margin,
        noise,
        chances(count) if count and noise.sd is not None else None,
        wanted,
        terms,
    )


def judged_metrics(
    baseline: Sequence[Record],
    noise_model: NoiseModel,
    margins: Mapping[str, float],
    full_scale: bool,
) -> dict[str, Margin]:
    """The quality metrics that a gate judges, in order, with their margins."""
    found = {}
    for name in _measured(baseline):
        if name in margins:
            found[name] = given(name, margins[name])
            continue
        margin = default_margin(name, quality_row(baseline, name, noise_model), full_scale)
        if margin is not None:
            found[name] = margin
    told = same_story(found, lambda name: True)
    return {name: margin for name, margin in found.items() if name not in told or name in margins}


def _measured(baseline: Sequence[Record]) -> list[str]:
    return [
        name for name in QUALITY if all(record.metrics.get(name) is not None for record in baseline)
    ]


def _of_row(row: NoiseRow | None) -> PlanningNoise:
    if row is None:
        return PlanningNoise(sd=None, df=0.0, own=True)
    return PlanningNoise(sd=row.sd, df=row.df, own=False)


def _of_runs(baseline: Sequence[Record], metric: str, row: NoiseRow | None) -> PlanningNoise:
    if row is not None:
        return _of_row(row)
    values = [run.metrics[metric] for run in logged_runs(baseline, "baseline")]
    own = pool([values])
    return PlanningNoise(sd=own.sd if own.df else None, df=float(own.df), own=True)


def _chances(
    noise: PlanningNoise,
    factor: float,
    margin: float,
    terms: Terms,
    at: Sequence[int],
    df: float,
    n_a: int | None = None,
) -> tuple[Rates, float]:
    """The rates at the last look without a change and at the margin, and the detectable harm.

    `factor` times the SD is the error of the difference at the last look. Looks before the last
    can only add to them.
    """
    assert noise.sd is not None
    parts = shares(n_a, at) if n_a is not None else [k / at[-1] for k in at]
    own = [max(0.0, df - (at[-1] - k)) for k in at] if noise.own else None
    se = noise.sd * factor
    if terms.rule == "open":
        tail = mixture.tail(se, margin / 2, terms.alpha)
    else:
        tail = look_tails(terms.alpha, parts, own)[-1] if df > 0 else terms.alpha
    passes = rates(0.0, margin, se, df, tail).passes
    found = Rates(passes=passes, regression=rates(margin, margin, se, df, tail).regression)
    if not df > 0:
        return found, math.nan
    return found, detectable(t_quantile(1 - tail, df), df, se, BETA)


def _fewest(chances: Callable[[int], Rates], start: int) -> int | None:
    """The fewest for which a pass without change and a catch at the margin both have 1 - beta.

    By halving: more runs never lower both.
    """

    def enough(n: int) -> bool:
        found = chances(n)
        return min(found.passes, found.regression) >= 1 - BETA

    if not enough(MOST):
        return None
    low, high = start - 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _affordable(count: int, unit_s: float | None, budget_s: float | None) -> int:
    if unit_s is None or budget_s is None or unit_s <= 0:
        return min(count, MOST)
    return min(count, MOST, int(budget_s / unit_s))


def _part(
    evidence: Evidence,
    metric: str,
    n: tuple[int, int],
    unit_s: float | None,
    margin: Margin | None,
    noise: PlanningNoise,
    chances: tuple[Rates, float] | None,
    wanted: int | None,
    terms: Terms,
) -> PartPlan:
    found, detects = chances or (None, math.nan)
    return PartPlan(
        evidence=evidence,
        metric=metric,
        n_a=n[0],
        n_b=n[1],
        looks=list(looks(n[1])) if n[1] and terms.rule == "looks" else [],
        unit_s=unit_s,
        margin=margin.value if margin else None,
        sd=noise.sd,
        df=noise.df if noise.sd is not None else None,
        minimum_detectable=None if math.isnan(detects) else detects,
        passes=found.passes if found else None,
        regression=found.regression if found else None,
        n_for_power=wanted,
        notes=_notes(metric, margin, noise, n, wanted),
        rule=terms.rule,
    )


def _notes(
    metric: str, margin: Margin | None, noise: PlanningNoise, n: tuple[int, int], wanted: int | None
) -> list[str]:
    notes = []
    if margin is None:
        notes.append(f"{metric} has no margin: --margin {metric}=M sets one")
    if noise.sd is None:
        unit = "launches" if metric in TIMES else "runs"
        notes.append(f"no noise is known beforehand: the {unit} have to show their own")
    elif margin is not None and wanted is None:
        more = "more replicates in the baseline" if metric not in TIMES else "a quieter machine"
        notes.append(f"no number up to {MOST} settles it nine times in ten: it takes {more}")
    if wanted is not None and n[1] < wanted:
        notes.append(f"nine times in ten takes {wanted}; the budget has room for {n[1]}")
    return notes


def without_chance(plan: GatePlan) -> str | None:
    """Why no verdict is likely under this plan; None where one is, or nobody can say."""
    if any(has_chance(part) for part in plan.parts):
        return None
    lacking = [_lacking(part) for part in plan.parts]
    return "no verdict is likely, so nothing is spent: " + "; ".join(lacking)


def has_chance(part: PartPlan) -> bool:
    """Whether a verdict is likely, or nobody can say."""
    if not part.n_b or part.margin is None:
        return False
    if part.passes is None or part.regression is None:
        return part.n_a + part.n_b > 2 and part.n_b > (1 if part.evidence == "launches" else 0)
    return max(part.passes, part.regression) >= LEAST_CHANCE


def _lacking(part: PartPlan) -> str:
    if part.margin is None:
        return part.notes[0]
    if not part.n_b:
        return f"one of the {part.evidence} takes {part.unit_s or 0:.0f} s"
    chance = "" if part.passes is None else f" pass without a change {part.passes:.0%} of the time"
    return f"{part.n_b} {part.evidence}{chance}"
