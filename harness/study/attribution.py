"""The result of a study: effects of its arms, from a resolved study and its records.

Combines the comparisons of single metrics: each arm in loss, speed, memory and time to target; the
tricks without effect; the price; warnings. Never reads disk, never prints.
"""

from collections.abc import Iterable, Sequence

import msgspec

from harness.comparison.result import MetricResult
from harness.metrics import COMPARED, LOSSES, SPEEDS, THROUGHPUTS
from harness.results.copies import copied_seeds, describe_copies
from harness.results.record import Record
from harness.results.study_plan import Arm, ResolvedStudy
from harness.stats import inference
from harness.stats.inference import Contrast
from harness.study.contrasts import Family
from harness.study.effects import (
    CHANGES,
    ArmNoise,
    ArmResult,
    Attribution,
    ExactChange,
    NoEffectTrick,
    Price,
    RunRow,
    TimeToTarget,
    Winner,
)
from harness.study.evidence import (
    ArmRun,
    Evidence,
    gather,
    incomparable_reason,
    status_counts,
    unfinished_reason,
)
from harness.study.run_effects import run_effects
from harness.study.speed_effects import speed_effects
from harness.study.time_to_target import horizon_slope, times_to_target

TOY_FLOPS = 1e17
TOY_PARAMETERS_IN_BLOCKS = 20e6
TOY_LINE = "Toy scale: this is no evidence about GPT-2 scale."


def attribute(study: ResolvedStudy, records: Iterable[Record]) -> Attribution:
    """The result of one study. `records`: all of its store, because sessions depend on all runs."""
    evidence = gather(study, records)
    primary = _first_measured(evidence, LOSSES)
    speed = _first_measured(evidence, THROUGHPUTS)
    families = {
        metric: run_effects(evidence, metric, _compiled_cold if entry.cold_compile else None)
        for metric, entry in COMPARED.items()
        if metric not in SPEEDS and (metric == primary or evidence.measures(metric))
    }
    families[speed] = speed_effects(evidence, speed)
    slope, fit = horizon_slope(evidence, primary)
    loss, pace = families[primary], families[speed]
    times = times_to_target(evidence, loss, pace, slope, fit) if slope else {}
    results = [_arm_result(evidence, arm, families, times.get(arm.name)) for arm in evidence.arms]
    base_runs = evidence.runs.get(evidence.base.name, [])
    rows = [_row(run) for runs in evidence.runs.values() for run in runs]
    return Attribution(
        study=study.study,
        question=study.question,
        headlines=headlines(evidence),
        alpha=study.decide.alpha,
        correction=study.decide.correction,
        margin=study.decide.margin,
        primary=primary,
        speed=speed,
        base=evidence.base.name,
        base_values={name: _mean(base_runs, name) for name in _metric_names(base_runs)},
        base_completed=status_counts(base_runs).get("completed", 0),
        base_planned=len(base_runs),
        planned=len(rows),
        completed=sum(row.status == "completed" for row in rows),
        arms=results,
        noise={metric: _noise(family) for metric, family in families.items()},
        slope=slope,
        no_effect_tricks=_no_effect_tricks(study, results) if study.decide.margin else None,
        winner=_winner(results, primary),
        runs=rows,
        environments=_environments(evidence),
        price=_price(evidence),
        warnings=_warnings(evidence),
    )


def _first_measured(evidence: Evidence, metrics: Sequence[str]) -> str:
    """The first of these metrics that any run measured, or the first of all."""
    return next((metric for metric in metrics if evidence.measures(metric)), metrics[0])


def _compiled_cold(record: Record) -> bool:
    cache = record.environment.get("compile_cache")
    return isinstance(cache, dict) and cache.get("result") == "miss"


# --- caveats on the whole study -------------------------------------------------------------------


def headlines(evidence: Evidence) -> list[str]:
    """Caveats on the whole study: toy scale, simulated runs, `pin: own`."""
    study, lines = evidence.study, []
    toy = is_toy_scale(evidence.base)
    if toy is None:
        lines.append(
            "Scale unknown (the trainer states neither FLOPs nor parameters): read it as toy scale."
        )
    elif toy:
        lines.append(TOY_LINE)
    if study.trainer == "fake":
        lines.append("Simulated runs: the FakeTrainer draws its curves from a formula.")
    if study.pin == "own":
        lines.append(
            "pin: own — every arm derived its own steps, batch and learning rates, "
            "so an effect is not that of the trick alone."
        )
    return lines


def is_toy_scale(base: Arm) -> bool | None:
    """Below about 1e17 FLOPs a run or 20M parameters in the blocks; None when neither is known."""
    flops, tokens = base.derived.get("flops_per_token"), base.derived.get("tokens")
    by_label = base.derived.get("parameters") or {}
    in_blocks = by_label.get("matrices") if isinstance(by_label, dict) else None
    answers = []
    if flops is not None and tokens is not None:
        answers.append(flops * tokens < TOY_FLOPS)
    if in_blocks is not None:
        answers.append(in_blocks < TOY_PARAMETERS_IN_BLOCKS)
    return any(answers) if answers else None


# --- one arm ------------------------------------------------------------------------------------


def _arm_result(
    evidence: Evidence, arm: Arm, families: dict[str, Family], time: TimeToTarget | None
) -> ArmResult:
    runs = evidence.runs.get(arm.name, [])
    return ArmResult(
        name=arm.name,
        role=arm.role,
        trick=arm.trick,
        change=CHANGES[arm.role],
        planned=len(runs),
        statuses=status_counts(runs),
        reasons=sorted(
            {
                run.record.reason
                for run in runs
                if _unfinished(run) and run.record and run.record.reason
            }
        ),
        parameters=_exact(evidence.base, arm, "parameters_total"),
        flops_per_token=_exact(evidence.base, arm, "flops_per_token"),
        effects={metric: family.effects[arm.name] for metric, family in families.items()},
        time_to_target=time,
        warnings=_arm_warnings(evidence, arm, families),
    )


def _unfinished(run: ArmRun) -> bool:
    return run.completed is None


def _exact(base: Arm, arm: Arm, key: str) -> ExactChange:
    return ExactChange(base=base.derived.get(key), arm=arm.derived.get(key))


def _arm_warnings(evidence: Evidence, arm: Arm, families: dict[str, Family]) -> list[str]:
    runs = evidence.runs.get(arm.name, [])
    lines = []
    foreign = incomparable_reason(evidence, arm)
    if foreign:
        lines.append(foreign)
    if any(run.completed for run in runs) and any(_unfinished(run) for run in runs):
        lines.append(unfinished_reason(runs))
    if arm.untuned:
        fields = ", ".join(arm.untuned)
        lines.append(f"untuned: {fields} kept the base's settings; a sweep may shrink the effect")
    for name, retuned in arm.retuned.items():
        if retuned.at_edge:
            lines.append(f"{name} = {retuned.value} lies at the edge of its sweep")
    for metric in THROUGHPUTS:
        effect = families[metric].effects[arm.name] if metric in families else None
        if effect and not effect.missing:
            lines += [f"speed left out, {why}" for why in effect.left_out]
    return lines


# --- the study as a whole -----------------------------------------------------------------------


def _no_effect_tricks(study: ResolvedStudy, results: Sequence[ArmResult]) -> list[NoEffectTrick]:
    """Tricks whose interval lies inside the margin of every metric that has one."""
    found = []
    for result in results:
        if result.trick is None or not _inside_margins(result, study.decide.margin):
            continue
        sign = -1 if result.change == "removed" else 1  # what the trick costs, not what it saves
        info = study.tricks.get(result.trick)
        delta = result.parameters.delta
        found.append(
            NoEffectTrick(
                trick=result.trick,
                arm=result.name,
                inside=study.decide.margin,
                pays_in=_pays_in(result, study.decide.margin),
                lines=info.lines if info else 0,
                parameters=None if delta is None else sign * delta + 0.0,
                peak_memory_bytes=_signed(result.effects.get("peak_memory_bytes"), sign),
                compile_s=_signed(result.effects.get("compile_s"), sign),
            )
        )
    return found


def _noise(family: Family) -> ArmNoise:
    shown = sum(effect.low is not None for effect in family.effects.values())
    return msgspec.structs.replace(family.noise, arms=shown)


def _signed(effect: MetricResult | None, sign: int) -> float | None:
    if effect is None or effect.estimate is None:
        return None
    return sign * effect.estimate + 0.0  # no minus before a zero


def _pays_in(result: ArmResult, margins: dict[str, float]) -> list[str]:
    """Metrics outside the margins' reach in which the trick helps beyond its noise."""
    return [
        metric
        for metric, effect in result.effects.items()
        if metric not in margins and effect.outside and (result.helps(metric) or 0.0) > 0
    ]


def _inside_margins(result: ArmResult, margins: dict[str, float]) -> bool:
    return all(_inside(_effect_named(result, name), margin) for name, margin in margins.items())


def _effect_named(result: ArmResult, name: str) -> MetricResult | None:
    if name == "time_to_target":
        return result.time_to_target.total if result.time_to_target else None
    return result.effects.get(name)


def _inside(effect: MetricResult | None, margin: float) -> bool:
    low = effect.fraction(effect.low) if effect else None
    high = effect.fraction(effect.high) if effect else None
    return low is not None and high is not None and -margin < low and high < margin


def _winner(results: Sequence[ArmResult], primary: str) -> Winner | None:
    found = {
        result.name: Contrast(estimate=effect.estimate, se=effect.se, df=effect.df or 0)
        for result in results
        if (effect := result.effects[primary]).estimate is not None and effect.se is not None
    }
    if not found:
        return None
    tau2 = inference.effect_variance(list(found.values()))
    arm = max(found, key=lambda name: abs(found[name].estimate))
    shrunk = inference.shrink(found[arm], tau2)
    return Winner(arm=arm, metric=primary, estimate=found[arm].estimate, shrunk=shrunk)


def _warnings(evidence: Evidence) -> list[str]:
    lines = []
    runs = [run for runs in evidence.runs.values() for run in runs]
    done = sum(run.completed is not None for run in runs)
    if done < len(runs):
        lines.append(f"{unfinished_reason(runs)}.")
    for arm, of_arm in evidence.runs.items():
        records = [run.completed for run in of_arm if run.completed]
        lines += [f"{arm}: {describe_copies(seeds)}." for seeds in copied_seeds(records)]
    twice = sum(sum(attempt.status == "completed" for attempt in run.attempts) > 1 for run in runs)
    if twice:
        were = "run was" if twice == 1 else "runs were"
        lines.append(f"{twice} {were} completed more than once; the first is used.")
    return lines


def _row(run: ArmRun) -> RunRow:
    planned, record = run.planned, run.record
    if record is None:
        return RunRow(
            plan_id=planned.plan_id,
            arm=planned.arm,
            seed=planned.seed,
            block=planned.block,
            status="not run",
        )
    return RunRow(
        plan_id=planned.plan_id,
        arm=planned.arm,
        seed=planned.seed,
        block=planned.block,
        status=record.status,
        reason=record.reason,
        attempts=len(run.attempts),
        session=run.session,
        environment_id=record.environment_id,
        concurrent_runs=record.concurrent_runs,
        started_at=record.started_at,
        wall_s=record.wall_s,
        overhead_s=record.wall_s - record.trainer_s,
        gpus=record.gpus,
        metrics=record.metrics,
    )


def _metric_names(runs: Sequence[ArmRun]) -> list[str]:
    return sorted({name for run in runs if run.completed for name in run.completed.metrics})


def _mean(runs: Sequence[ArmRun], metric: str) -> float | None:
    values = [run.completed.metrics.get(metric) for run in runs if run.completed]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _environments(evidence: Evidence) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for runs in evidence.runs.values():
        for run in runs:
            if run.completed:
                found.setdefault(run.completed.environment_id, run.completed.environment)
    return found


def _price(evidence: Evidence) -> Price:
    study = evidence.study
    attempts = [
        record for runs in evidence.runs.values() for run in runs for record in run.attempts
    ]
    own = [record for record in attempts if record.launch.study == study.study]
    gpu_s = sum(record.wall_s * record.gpus for record in own)
    price = study.limits.price
    overhead = [record.wall_s - record.trainer_s for record in own]
    return Price(
        runs=len(own),
        reused_runs=sum(
            run.completed is not None and run.completed.launch.study != study.study
            for runs in evidence.runs.values()
            for run in runs
        ),
        wall_s=sum(record.wall_s for record in own),
        gpu_s=gpu_s,
        usd_per_gpu_hour=price,
        usd=None if price is None else gpu_s / 3600 * price,
        overhead_per_run_s=sum(overhead) / len(overhead) if overhead else None,
    )
