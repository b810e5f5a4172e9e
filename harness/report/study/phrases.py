"""Numbers and sentences of a study's report: signs, units, decimals.

Every format prints effects through this file, so that they cannot disagree. Pure functions.
"""

from collections.abc import Iterable

from harness.format import DASH, count, duration, mebibytes, plural, short_percent, signed
from harness.metrics import METRICS
from harness.report.metric_text import detectable, estimate, full, limit, margin, number
from harness.study.effects import ArmResult, Attribution, TimeToTarget


def change_of_count(value: float | None) -> str:
    """The change of a count with its sign; 0 for none."""
    if value is None:
        return DASH
    return "0" if value == 0 else ("+" if value > 0 else "") + count(value)


def parts(time: TimeToTarget) -> str:
    """'+0.2734 = +0.3335 − 0.0601': ln T as quality plus speed; the printed parts add exactly."""
    quality, speed = time.quality.estimate, time.speed.estimate
    if quality is None or speed is None or time.total.estimate is None:
        limits = {"quality": limit(time.quality), "speed": limit(time.speed)}
        return joined((f"{name} {text}" for name, text in limits.items() if text != DASH), "; ")
    quality, speed = round(quality, 4), round(speed, 4)
    sign = "+" if speed >= 0 else "\N{MINUS SIGN}"
    total, first = (signed(f"{value:+.4f}") for value in (quality + speed, quality))
    return f"{total} = {first} {sign} {abs(speed):.4f}"


# --- names ----------------------------------------------------------------------------------------


def title(metric: str) -> str:
    """The metric as a heading."""
    if metric == "time_to_target":
        return "time to target"
    return METRICS[metric].title if metric in METRICS else metric


def unit(metric: str) -> str:
    """The unit of a metric, for an axis."""
    return METRICS[metric].unit if metric in METRICS else metric


def arm_label(arm: ArmResult) -> str:
    """'muon removed', 'smear added', or the arm's own name."""
    return f"{arm.trick} {arm.change}" if arm.trick else arm.name


def short_labels(result: Attribution) -> dict[str, str]:
    """Arm -> label for a table or a chart: the trick alone where all arms change alike."""
    alike = len({arm.change for arm in result.arms}) == 1 and all(arm.trick for arm in result.arms)
    return {arm.name: (arm.trick or arm.name) if alike else arm_label(arm) for arm in result.arms}


def effects_title(result: Attribution) -> str:
    """What the effects table and the bars show, as a heading."""
    kinds = {arm.change for arm in result.arms}
    if kinds == {"removed"}:
        return "What changes when a trick is removed"
    if kinds == {"added"}:
        return "What changes when a trick is added"
    return "What changes against the base"


def runs_of(arm: ArmResult) -> str:
    """'3' or '2 of 3': completed runs of those planned."""
    if arm.completed == arm.planned:
        return str(arm.planned)
    return f"{arm.completed} of {arm.planned}"


def joined(texts: Iterable[str], separator: str = ", ") -> str:
    """The texts with a separator between them, or a dash."""
    return separator.join(texts) or DASH


# --- sentences about a study ----------------------------------------------------------------------


def answer(result: Attribution) -> str:
    """What the reader must know first, then how many tricks matter and which one matters most."""
    metric = title(result.primary)
    effects = [arm.effects[result.primary] for arm in result.arms]
    compared = [effect for effect in effects if effect.low is not None]
    progress = [progress_line(result)] if result.completed < result.planned else []
    if not compared:
        text = f"No arm can be compared in {metric} yet."
    elif changed := [arm for arm in result.arms if arm.effects[result.primary].outside]:
        largest = max(changed, key=lambda arm: abs(arm.effects[result.primary].estimate or 0.0))
        text = (
            f"{len(changed)} of {plural(len(compared), 'arm')} "
            f"{'differs' if len(changed) == 1 else 'differ'} from the base in {metric} by more "
            f"than the noise between runs; the largest difference is {arm_label(largest)}, "
            f"{full(largest.effects[result.primary])}."
        )
    else:
        known = [e for e in compared if e.minimum_detectable is not None]
        mde = max(known, key=lambda effect: effect.minimum_detectable or 0.0, default=None)
        smallest = f" (minimum detectable effect: {detectable(mde)})" if mde else ""
        text = f"No arm differs from the base in {metric} by more than the noise{smallest}."
    return " ".join([*result.headlines, text, *progress])


def missing_lines(result: Attribution) -> list[str]:
    """'no_muon: no tokens/s: why', one line for each reason of each arm."""
    lines = []
    for arm in result.arms:
        reasons: dict[str, list[str]] = {}
        effects = {name: arm.effects.get(name) for name in (result.primary, result.speed)}
        if arm.time_to_target:
            effects["time_to_target"] = arm.time_to_target.total
        for name, effect in effects.items():
            if effect and (why := effect.missing or effect.no_interval):
                what = "no {}:" if effect.missing else "no interval for {}:"
                key = f"{what} {why.removeprefix('speed: ')}"
                reasons.setdefault(key, []).append(title(name))
        lines += [f"{arm.name}: {key.format(', '.join(who))}" for key, who in reasons.items()]
    return lines


def base_line(result: Attribution) -> str:
    """'The base: 3 runs, 1.4995 validation bits per byte, 20,812 tokens/s, 412 MiB peak memory.'"""
    done, planned = result.base_completed, result.base_planned
    texts = [plural(done, "run") if done == planned else f"{done} of {plural(planned, 'run')}"]
    if (value := result.base_values.get(result.primary)) is not None:
        texts.append(f"{value:.4f} {title(result.primary)}")
    if (value := result.base_values.get(result.speed)) is not None:
        texts.append(f"{value:,.0f} tokens/s")
    if (value := result.base_values.get("peak_memory_bytes")) is not None:
        texts.append(f"{mebibytes(value)} peak memory")
    return f"The base: {', '.join(texts)}."


def how_to_read(result: Attribution) -> str:
    """What the sign of an effect means, and its interval."""
    meanings = {
        "removed": "what changes when the trick is removed from the base",
        "added": "what changes when the trick is added to the base",
        "changed": "what changes against the base",
    }
    sign = " or ".join(meanings[kind] for kind in sorted({arm.change for arm in result.arms}))
    if not rule(result):
        return f"Each number is {sign}. No interval can be computed yet."
    return (
        f"Each number is {sign}. Its interval ({rule(result)}) contains the true changes that are "
        "compatible with the noise between runs. An interval without zero is more than noise; one "
        "that contains zero shows only that a change is smaller than its ends."
    )


def outcome_line(result: Attribution) -> str | None:
    """What the outcome of an arm means; None where none is judged in the primary metric."""
    judged = [e for arm in result.arms if (e := arm.effects[result.primary]).outcome is not None]
    if not judged:
        return None
    return (
        f"Outcome: whether the arm is worse than the base in {title(result.primary)} by more than "
        f"the margin of {margin(judged[0])} ({judged[0].margin_from})."
    )


def rule(result: Attribution) -> str:
    """'Dunnett over 4 arms, simultaneous 95 %': the rule of the primary metric's intervals."""
    rules = (arm.effects[result.primary].rule for arm in result.arms)
    return next((text for text in rules if text), "")


def price_line(result: Attribution) -> str:
    """What was used: runs, machine time, GPU-seconds, and USD where a price is set."""
    price = result.price
    texts = [plural(price.runs, "run"), f"{duration(price.wall_s)} of run time"]
    texts.append(f"{price.gpu_s:,.0f} GPU-seconds")
    if price.usd is not None:
        texts.append(f"USD {price.usd:,.2f} at {price.usd_per_gpu_hour:g} a GPU-hour")
    if price.reused_runs:
        texts.append(f"{plural(price.reused_runs, 'run')} reused from other studies at no cost")
    return ", ".join(texts)


def progress_line(result: Attribution) -> str:
    """'15 of 15 runs completed.'"""
    return f"{result.completed} of {plural(result.planned, 'run')} completed."


def slope_line(result: Attribution) -> str | None:
    """The exchange rate behind the time-to-target; None for a study without horizons."""
    slope = result.slope
    if slope is None:
        return None
    if slope.missing or slope.slope is None:
        return f"No time-to-target: {slope.missing}."
    error = f" ± {slope.se:.4f} (SE, {slope.df} df)" if slope.se is not None else ""
    horizons = ", ".join(f"{horizon:g}" for horizon in slope.horizons)
    rate = signed(f"{slope.slope:+.4f}")
    bend = ""
    if slope.curvature:
        bend = f", changing by {signed(f'{2 * slope.curvature:+.4f}')} per e-fold"
    return (
        f"Exchange rate: {rate}{error} {slope.metric} per e-fold of training tokens{bend}, "
        f"from {plural(slope.runs, 'run')} of the base at horizons {horizons}."
    )


def winner_line(result: Attribution) -> str | None:
    """The largest effect, shrunk because it was selected as the largest."""
    winner = result.winner
    if winner is None or len(result.arms) < 2:
        return None
    arm = next(arm for arm in result.arms if arm.name == winner.arm)
    effect = arm.effects[winner.metric]
    return (
        f"Largest effect on {winner.metric}: {arm_label(arm)}, {estimate(effect)}; "
        f"{number(effect, winner.shrunk)} after shrinkage for being selected as the largest."
    )


def noise_line(result: Attribution, metric: str) -> str | None:
    """The SD between runs of a metric, with its degrees of freedom."""
    noise = result.noise.get(metric)
    if noise is None or noise.sd is None:
        return None
    size = short_percent(noise.sd, 2) if metric == result.speed else f"{noise.sd:.2g}"
    by_arm = ""
    if noise.lowest is not None and noise.highest is not None:
        by_arm = f"; of single arms {noise.lowest:.2g} to {noise.highest:.2g}"
    return f"SD between runs of {title(metric)}: {size} ({noise.df} df){by_arm}."


def paired_line(result: Attribution) -> str | None:
    """Which arms are compared with the base seed by seed; None where none is."""
    paired = [arm for arm in result.arms if arm.effects[result.primary].method == "paired"]
    if not paired:
        return None
    return (
        "Compared seed by seed, because that gives the shorter interval: "
        f"{joined(arm.name for arm in paired)}; the other arms over all their runs."
    )


def all_warnings(result: Attribution) -> list[str]:
    """The study's warnings, then each arm's with its name."""
    by_arm = (f"{arm.name}: {line}" for arm in result.arms for line in arm.warnings)
    return [*result.warnings, *by_arm]
