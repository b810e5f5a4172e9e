"""Plans a gate before it spends anything: how many launches and runs, when to look, what that costs
and which harm it can detect.

Everything is fixed here and `measurement` keeps to it: three looks within the budget or an
always-valid test, the margins, and the noise that they are compared with. A gate under which no
decision is likely is blocked instead of being run. Pure.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from harness.comparison.margins import Margin, default_margin, stated_margin
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.format import duration, plural
from harness.gate import ab_launcher, history
from harness.gate.measurement import launch_row, speed_margin
from harness.gate.metrics import quality_row
from harness.gate.part_planning import LAUNCHES, PlanningNoise, PlanOptions, plan_part
from harness.gate.result import (
    SPEED,
    Evidence,
    GatePlan,
    GateResult,
    PartPlan,
)
from harness.gate.sides import PreparedGate
from harness.metrics import LOSSES, QUALITY, duplicates
from harness.results.copies import without_copies
from harness.results.logs.from_store import logged_runs
from harness.results.recipe import full_scale_from_derived, is_full_scale
from harness.results.record import Record
from harness.stats.inference import pool
from harness.stats.spending import Reading

LAUNCHES_WITHOUT_NOISE = 2 * LAUNCHES  # where only their own spread is known
MIN_PROBABILITY = 0.1  # of a pass without change, or of detecting a margin: below both, run nothing


# --- the whole gate -------------------------------------------------------------------------------


def plan_gate(
    prepared: PreparedGate,
    noise_model: NoiseModel,
    stored: Sequence[GateResult],
    records: Sequence[Record] = (),
) -> GatePlan:
    """The plan of a gate. `stored`: earlier gates, from which the duration of a launch is taken;
    `records`: earlier runs, from which that of a run is, where there is no baseline.

    Speed is planned first and leaves the quality runs the time they need for a decision, up to half
    of the budget. Under the always-valid rule launches get half of the budget.
    """
    request, parts, left_s = prepared.request, [], prepared.request.budget_s
    if prepared.a is not None:
        part = _speed_part(prepared, noise_model, stored, records)
        parts.append(part)
        if left_s is not None:
            left_s = max(0.0, left_s - (part.seconds or 0.0))
    if prepared.compares_quality:
        options = PlanOptions(
            reading=_reading(prepared, "replicates", stored), rule=request.rule, budget_s=left_s
        )
        parts.append(_quality_part(prepared, records, noise_model, options))
    plan = GatePlan(
        parts=parts,
        budget_s=request.budget_s,
        alpha=request.alpha,
        price_usd_per_hour=request.price_usd_per_hour,
        gpus=request.baseline.gpus if request.baseline else 1,
    )
    return msgspec.structs.replace(plan, blocked=why_no_decision(plan))


def _speed_part(
    prepared: PreparedGate,
    noise_model: NoiseModel,
    stored: Sequence[GateResult],
    records: Sequence[Record],
) -> PartPlan:
    request, stop_after_s = prepared.request, _launches_stop_after_s(prepared)
    budget_s = stop_after_s
    if stop_after_s is None:
        budget_s = _budget_for_launches_s(prepared, noise_model, stored, records)
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
    prepared: PreparedGate,
    noise_model: NoiseModel,
    stored: Sequence[GateResult],
    records: Sequence[Record],
) -> float | None:
    """The budget less the time of runs that can reach a decision within half of it."""
    request = prepared.request
    if request.budget_s is None or not prepared.compares_quality:
        return request.budget_s
    half = PlanOptions(
        reading=_reading(prepared, "replicates", stored),
        rule=request.rule,
        budget_s=request.budget_s / 2,
    )
    runs = _quality_part(prepared, records, noise_model, half)
    reserved_s = runs.seconds if decision_is_likely(runs) else None
    return request.budget_s - (reserved_s or 0.0)


def _quality_part(
    prepared: PreparedGate,
    records: Sequence[Record],
    noise_model: NoiseModel,
    options: PlanOptions,
) -> PartPlan:
    baseline, margins = prepared.request.baseline, prepared.request.margins
    if baseline is None:
        return _both_part(prepared, records, noise_model, options)
    runs = baseline.now.records
    run_s = math.fsum(record.wall_s for record in runs) / len(runs)
    return plan_quality(runs, noise_model, margins, is_full_scale(runs[0]), run_s, options)


def _both_part(
    prepared: PreparedGate,
    records: Sequence[Record],
    noise_model: NoiseModel,
    options: PlanOptions,
) -> PartPlan:
    """Runs of both refs, block by block: losses, whose noise is that of the noise model's row."""
    bench, derived = prepared.bench, prepared.b.recipe.derived
    rows = {name: noise_model.find(bench.scale, name, bench.device, "seed") for name in LOSSES}
    full_scale = full_scale_from_derived(derived)
    judged = judged_metrics(rows, prepared.request.margins, full_scale)
    walls = [one.wall_s for one in records if _is_of(prepared, one) and one.status == "completed"]
    block_s = 2 * math.fsum(walls) / len(walls) if walls else None
    noises = {name: _noise_of_row(row) for name, row in rows.items()}
    part = _largest_part(judged, noises, None, block_s, options)
    return msgspec.structs.replace(part, both=True)


def _is_of(prepared: PreparedGate, record: Record) -> bool:
    return record.identity.config_id in {
        side.identity.config_id for side in (prepared.a, prepared.b) if side is not None
    }


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
    return plan_part("launches", SPEED, None, margin, noise, unit_s, options, default=default)


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
    rows = {name: quality_row(baseline, name, noise_model) for name in _measured(baseline)}
    noises = {name: _noise_of_runs(baseline, name, row) for name, row in rows.items()}
    judged = judged_metrics(rows, margins, full_scale)
    return _largest_part(judged, noises, len(baseline), unit_s, options)


def _largest_part(
    judged: Mapping[str, Margin],
    noises: Mapping[str, PlanningNoise],
    n_a: int | None,
    unit_s: float | None,
    options: PlanOptions,
) -> PartPlan:
    """The part of the judged metric that needs the most runs; without one, no runs."""
    if not judged:
        metric, noise = next(iter(noises.items()))
        return plan_part("replicates", metric, n_a, None, noise, unit_s, options)
    parts = [
        plan_part("replicates", metric, n_a, margin, noises[metric], unit_s, options)
        for metric, margin in judged.items()
    ]
    likely = [part for part in parts if decision_is_likely(part)] or parts[:1]
    largest = max(likely, key=lambda part: part.n_b)
    fewer = [f"{part.metric} needs {part.n_b}" for part in likely if part.n_b < largest.n_b]
    return msgspec.structs.replace(largest, notes=[*largest.notes, *fewer])


def judged_metrics(
    rows: Mapping[str, NoiseRow | None], margins: Mapping[str, float], full_scale: bool
) -> dict[str, Margin]:
    """The quality metrics with an outcome in a gate, in order, with their margins.

    `rows`: the noise model's row of each metric that is measured.
    """
    chosen = {}
    for name, row in rows.items():
        if name in margins:
            chosen[name] = stated_margin(name, margins[name])
            continue
        margin = default_margin(name, row, full_scale)
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
    return PlanningNoise(sd=row.sd, df=row.known.df, own=False)


def _noise_of_runs(baseline: Sequence[Record], metric: str, row: NoiseRow | None) -> PlanningNoise:
    if row is not None:
        return _noise_of_row(row)
    runs = logged_runs(without_copies(baseline), "baseline")
    own = pool([[run.metrics[metric] for run in runs]])
    return PlanningNoise(sd=own.sd if own.df else None, df=float(own.df), own=True)
