"""Numbers and names as a reader sees them: signs, units, decimals, sentences.

Every part of the report (terminal, HTML, CSV, picture) words an effect through this file, so that
they cannot disagree. Pure.
"""

from collections.abc import Iterable

from harness.format import DASH, count, duration, mebibytes, signed
from harness.metrics import METRICS
from harness.report.metric_text import OUTSIDE_RANGE as OUTSIDE_RANGE
from harness.report.metric_text import detectable as detectable
from harness.report.metric_text import estimate as estimate
from harness.report.metric_text import full as full
from harness.report.metric_text import interval as interval
from harness.report.metric_text import limit as limit
from harness.report.metric_text import no_interval as no_interval
from harness.report.metric_text import number as number
from harness.study.effects import ArmResult, Attribution, TimeToTarget


def change_of_count(value: float | None) -> str:
    """A count's change with its sign; 0 for none."""
    if value is None:
        return DASH
    return "0" if value == 0 else ("+" if value > 0 else "") + count(value)


def arm_label(arm: ArmResult) -> str:
    """'muon removed', 'smear added', or the arm's own name."""
    return f"{arm.trick} {arm.change}" if arm.trick else arm.name


def short_labels(found: Attribution) -> dict[str, str]:
    """Arm -> label for a table or a chart: the trick alone where all arms change alike."""
    alike = len({arm.change for arm in found.arms}) == 1 and all(arm.trick for arm in found.arms)
    return {arm.name: (arm.trick or arm.name) if alike else arm_label(arm) for arm in found.arms}


def effects_title(found: Attribution) -> str:
    """What the effects table and the bars show, as a heading."""
    kinds = {arm.change for arm in found.arms}
    if kinds == {"removed"}:
        return "What changes when a trick is removed"
    if kinds == {"added"}:
        return "What changes when a trick is added"
    return "What changes against the base"


def parts(time: TimeToTarget) -> str:
    """'+0.2734 = +0.3335 − 0.0601': ln T as quality plus speed; the printed parts add exactly."""
    quality, speed = time.quality.estimate, time.speed.estimate
    if quality is None or speed is None or time.total.estimate is None:
        pieces = {"quality": limit(time.quality), "speed": limit(time.speed)}
        known = [f"{name} {shown}" for name, shown in pieces.items() if shown != DASH]
        return "; ".join(known) or DASH
    quality, speed = round(quality, 4), round(speed, 4)
    sign = "+" if speed >= 0 else "\N{MINUS SIGN}"
    total, first = (signed(f"{value:+.4f}") for value in (quality + speed, quality))
    return f"{total} = {first} {sign} {abs(speed):.4f}"


def missing_lines(found: Attribution) -> list[str]:
    """'no_muon: no tokens/s: why', one line for each reason of each arm."""
    lines = []
    for arm in found.arms:
        reasons: dict[str, list[str]] = {}
        effects = {name: arm.effects.get(name) for name in (found.primary, found.speed)}
        if arm.time_to_target:
            effects["time_to_target"] = arm.time_to_target.total
        for name, effect in effects.items():
            if effect and (why := effect.missing or effect.no_interval):
                what = "no {}:" if effect.missing else "no interval for {}:"
                key = f"{what} {why.removeprefix('speed: ')}"
                reasons.setdefault(key, []).append(title(name))
        lines += [f"{arm.name}: {key.format(', '.join(who))}" for key, who in reasons.items()]
    return lines


def title(metric: str) -> str:
    """The metric as a heading."""
    if metric == "time_to_target":
        return "time to target"
    return METRICS[metric].title if metric in METRICS else metric


def base_line(found: Attribution) -> str:
    """'The base: 3 runs, 1.4995 validation bits per byte, 20,812 tokens/s, 412 MiB peak memory.'"""
    count = f"{found.base_completed}"
    if found.base_completed != found.base_planned:
        count += f" of {found.base_planned}"
    parts = [f"{count} run{'s' * (found.base_planned != 1)}"]
    for metric, words in (
        (found.primary, "{:.4f} " + title(found.primary)),
        (found.speed, "{:,.0f} tokens/s"),
    ):
        if (value := found.base_values.get(metric)) is not None:
            parts.append(words.format(value))
    if (peak := found.base_values.get("peak_memory_bytes")) is not None:
        parts.append(f"{mebibytes(peak)} peak memory")
    return f"The base: {', '.join(parts)}."


def runs_of(arm: ArmResult) -> str:
    """'3' or '2 of 3': completed runs of those planned."""
    if arm.completed == arm.planned:
        return str(arm.planned)
    return f"{arm.completed} of {arm.planned}"


def how_to_read(found: Attribution) -> str:
    """One sentence on the sign of the effects and one on the intervals."""
    kinds = sorted({arm.change for arm in found.arms})
    sign = " or ".join(
        {
            "removed": "what changes when the trick is removed from the base",
            "added": "what changes when the trick is added to the base",
            "changed": "what changes against the base",
        }[kind]
        for kind in kinds
    )
    return (
        f"Each number is {sign}. Its interval ({rule(found)}) is what "
        "the noise between runs allows the true change to be: one that leaves out zero is more "
        "than noise, one that covers zero says only that any change is smaller than its ends."
    )


def rule(found: Attribution) -> str:
    """'Dunnett over 4 arms, simultaneous 95 %': the rule of the intervals in the primary metric."""
    rules = [arm.effects[found.primary].rule for arm in found.arms]
    return next((one for one in rules if one), "no interval yet")


def price_line(found: Attribution) -> str:
    """What was spent: runs, machine time, GPU-seconds, USD where a price is set."""
    price = found.price
    parts = [f"{price.runs} runs", f"{duration(price.wall_s)} of run time"]
    parts.append(f"{price.gpu_s:,.0f} GPU-seconds")
    if price.usd is not None:
        parts.append(f"USD {price.usd:,.2f} at {price.usd_per_gpu_hour:g} a GPU-hour")
    if price.reused_runs:
        parts.append(f"{price.reused_runs} more runs were on record already and cost nothing")
    return ", ".join(parts)


def progress_line(found: Attribution) -> str:
    """'15 of 15 runs completed.'"""
    return f"{found.completed} of {found.planned} runs completed."


def slope_line(found: Attribution) -> str | None:
    """The exchange rate that the time to target rests on; None for a study without horizons."""
    slope = found.slope
    if slope is None:
        return None
    if slope.missing or slope.slope is None:
        return f"No time to target: {slope.missing}."
    error = f" ± {slope.se:.4f} (SE, {slope.df} df)" if slope.se is not None else ""
    horizons = ", ".join(f"{horizon:g}" for horizon in slope.horizons)
    return (
        f"Exchange rate: {slope.slope:+.4f}{error} {slope.metric} per e-fold of training tokens, "
        f"from {slope.runs} runs of the base at horizons {horizons}."
    )


def winner_line(found: Attribution) -> str | None:
    """The largest effect, shrunk for having been picked as the largest."""
    winner = found.winner
    if winner is None or len(found.arms) < 2:
        return None
    arm = next(arm for arm in found.arms if arm.name == winner.arm)
    effect = arm.effects[winner.metric]
    return (
        f"Largest effect on {winner.metric}: {arm_label(arm)}, {estimate(effect)}; "
        f"{number(effect, winner.shrunk)} after shrinking it for having been picked as the largest."
    )


def noise_line(found: Attribution, metric: str) -> str | None:
    """The run-to-run SD of a metric, with its degrees of freedom."""
    noise = found.noise.get(metric)
    if noise is None or noise.sd is None:
        return None
    size = f"{100 * noise.sd:.2g} %" if metric == found.speed else f"{noise.sd:.2g}"
    return f"SD between runs of {title(metric)}: {size} ({noise.df} df)."


def all_warnings(found: Attribution) -> list[str]:
    """The study's warnings, then each arm's with its name."""
    return [
        *found.warnings,
        *(f"{arm.name}: {line}" for arm in found.arms for line in arm.warnings),
    ]


def joined(parts: Iterable[str], nothing: str = DASH) -> str:
    """The parts with commas between them, or a dash."""
    return ", ".join(parts) or nothing


def unit(metric: str) -> str:
    """The unit of a metric, for an axis."""
    return METRICS[metric].unit if metric in METRICS else metric
