"""The plan of a gate: what it will run, how long that takes, and which harm it can detect."""

import msgspec

from harness.format import duration, plural
from harness.gate.result import GatePlan, PartPlan
from harness.metrics import SPEEDS, metric_named
from harness.report.document import Document, Notes, Text, Tone, present


def build_plan(plan: GatePlan) -> Document:
    """The plan for the terminal and JSON."""
    return Document(
        title="Gate plan",
        answer=plan.blocked or f"time: {_time(plan)}; cost: {_cost(plan)}",
        tone=_tone(plan),
        blocks=present(
            *(Text(paragraphs=_part_lines(part)) for part in plan.parts),
            Notes(items=[f"{part.metric}: {note}" for part in plan.parts for note in part.notes]),
        ),
        data={**msgspec.to_builtins(plan), "exit_code": plan.exit_code},
    )


def _tone(plan: GatePlan) -> Tone:
    if plan.blocked is None:
        return "neutral"
    return "inconclusive" if plan.parts else "failed"


def _part_lines(part: PartPlan) -> list[str]:
    launches = part.evidence == "launches"
    unit = "launch" if launches else "run"
    if not part.n_b:
        return [f"{part.metric}: nothing is run ({_why_none(part, unit)})"]
    number = plural(part.n_b, unit, "launches" if launches else "")
    what = "of both sides" if launches else f"against the baseline's {part.n_a}"
    if part.both:
        what = "of each side, interleaved"
    each = "" if part.unit_s is None else f", {duration(part.unit_s)} each"
    if part.both and part.unit_s is not None:
        each = f", {duration(part.unit_s)} a block"
    lines = [f"{part.metric}: up to {number} {what}{each}; {_looks(part, unit)}"]
    if part.margin is not None:
        size = metric_named(part.metric).size(part.margin)
        lines.append(f"  margin {size}, MDE {_mde(part)}, SD of one {unit} {_sd(part)}")
    if part.p_pass_if_unchanged is not None and part.p_regression_at_margin is not None:
        least = "at least " if part.rule == "always_valid" else ""
        lines.append(
            f"  P(pass | no change) {least}{part.p_pass_if_unchanged:.0%}, "
            f"P(regression | harm of one margin) {least}{part.p_regression_at_margin:.0%}"
        )
    return lines


def _why_none(part: PartPlan, unit: str) -> str:
    if part.margin is None:
        return "it has no margin"
    block = "block of both sides" if part.both else unit
    return f"one {block} takes {duration(part.unit_s)}, more than the budget leaves"


def _looks(part: PartPlan, unit: str) -> str:
    if part.rule == "group_sequential":
        return f"looks after {', '.join(map(str, part.looks)) or 'none'}"
    limit = "" if part.stop_after_s is None else f", {duration(part.stop_after_s)} at most"
    return f"always-valid test after each {unit}{limit}"


def _mde(part: PartPlan) -> str:
    if part.minimum_detectable is None:
        return "unknown"
    return metric_named(part.metric).size(part.minimum_detectable)


def _sd(part: PartPlan) -> str:
    if part.sd is None:
        return "unknown"
    size = f"{part.sd:.2%}" if part.metric in SPEEDS else f"{part.sd:.2g}"
    return f"{size} ({part.df or 0:.3g} df)"


def _time(plan: GatePlan) -> str:
    budget = "" if plan.budget_s is None else f", with a budget of {duration(plan.budget_s)}"
    longest = "unknown until the first launch"
    if plan.seconds is not None:
        longest = f"at most {duration(plan.seconds)}"
    return f"{longest}{budget}"


def _cost(plan: GatePlan) -> str:
    if plan.price_usd_per_hour is None:
        return "no price given (--price, USD per GPU-hour)"
    if plan.seconds is None:
        return "unknown"
    dollars = plan.price_usd_per_hour * max(1, plan.gpus) * plan.seconds / 3600
    return f"${dollars:,.2f}"
