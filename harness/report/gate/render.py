"""A gate as people read it: its plan before it spends, its verdicts in the terminal and on a pull
request. The verdict first, then effect, interval, margin, n and smallest detectable harm, then what
has to be known. Reads a `GatePlan` or a `GateResult` and nothing else; after `summary`.
"""

import math
import re
from typing import TYPE_CHECKING

from rich.markup import escape

from harness.format import DASH, markdown_row
from harness.gate.result import GatePlan, GateResult, MetricVerdict, PartPlan, Subject
from harness.metrics import SPEEDS, metric_named
from harness.report.compare import (
    MARKS,
    STYLES,
    about,
    core_markdown,
    level,
    picture,
    print_core,
    print_judgements,
    reading,
)
from harness.report.metric_text import detectable, estimate, interval, margin, outcome

if TYPE_CHECKING:
    from rich.console import Console

FAILED_MARK = "⛔"
LOG_LINES = 15
ALWAYS = ("pass", "regression", "inconclusive")


def print_result(console: "Console", result: GateResult) -> None:
    """The whole gate in the terminal."""
    style = STYLES.get(result.outcome if result.outcome in ALWAYS else "regression", "red")
    head = f"[bold reverse {style}] {result.outcome.upper()} [/] {escape(result.reason)}\n"
    console.print(head, soft_wrap=True)
    for line in sides(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if result.metrics:
        print_judgements(console, [one.judged for one in result.metrics], result.alpha)
    if result.core is not None:
        print_core(console, result.core, tasks=False)
    for line in footnotes(result):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def as_markdown(result: GateResult) -> str:
    """For a pull request."""
    mark = MARKS[result.outcome] if result.outcome in ALWAYS else FAILED_MARK
    lines = [f"### {mark} {result.outcome}: {result.reason}", ""]
    if result.metrics:
        interval_of = f"{level(result.alpha)} interval"
        titles = ["metric", "n", "B − A", interval_of, "margin", "MDE", "verdict"]
        titles.append("better ┃ worse")
        lines += [markdown_row(titles), markdown_row(["---"] * len(titles))]
        lines += [markdown_row(_cells(one)) for one in result.metrics]
        lines.append("")
    lines += [f"- {line}" for line in sides(result)]
    lines += [f"- {line}" for line in footnotes(result)]
    return "\n".join(lines) + "\n" + _core(result) + _log(result)


def _cells(one: MetricVerdict) -> list[str]:
    judged = one.judged
    n = str(judged.n[0]) if judged.n[0] == judged.n[1] else f"{judged.n[0]}, {judged.n[1]}"
    drawn = re.sub(r"\[[^\]]*\]", "", picture(judged))
    return [
        judged.metric,
        f"{n} {one.evidence if one.evidence != 'trajectory' else 'steps'}",
        estimate(judged),
        interval(judged) or DASH,
        margin(judged),
        detectable(judged).lstrip("±"),
        f"**{outcome(judged)}**" if judged.outcome else outcome(judged),
        f"`{drawn}`" if drawn else "",
    ]


def sides(result: GateResult) -> list[str]:
    """What A and B are, one line each."""
    return [f"A  {_side(result.a)}", f"B  {_side(result.b)}"]


def _side(side: Subject) -> str:
    parts = []
    if side.ref is not None:
        parts.append("the present code" if side.ref == "." else side.ref)
        parts.append(f"commit {side.commit[:10]}" if side.commit else "of no commit")
    elif side.baseline is not None:
        parts.append(f"baseline {side.baseline}")
    parts += [f"{path}={value}" for path, value in side.set.items()]
    return ", ".join([*parts, f"code {side.code_id[:8]}", f"configuration {side.config_id[:8]}"])


def footnotes(result: GateResult) -> list[str]:
    """Looks, noise, margins, confirmations, sums of small harms, and how to read it."""
    lines = []
    for one in result.metrics:
        lines += _look(one, result.alpha) + about(one.judged) + _history(one)
    lines += result.notes
    if result.baseline_hash and result.a.baseline:
        lines.append(f"baseline {result.a.baseline}, entry {result.baseline_hash[:10]}")
    where = f" on {result.device}" if result.device else ""
    seconds = result.ended_at - result.started_at
    if result.number:
        lines.append(f"gate {result.key} number {result.number}{where}, {_time(seconds)}")
    return [*lines, reading(result.alpha)] if result.metrics else lines


def _look(one: MetricVerdict, alpha: float) -> list[str]:
    if one.looks == 1 or one.outcome is None or one.judged.low is None:
        return []
    wrong = f"all looks together are wrong in {100 * alpha:g} % of cases at most"
    if one.rule == "open":
        what = "launch" if one.evidence == "launches" else "run"
        return [
            f"{one.judged.metric}: open, looked at after each {what}, {one.look} so far; its "
            f"interval is the wider one of the mixture test, so that {wrong}"
        ]
    return [
        f"{one.judged.metric}: look {one.look} of {one.looks}; its interval is the wider one of "
        f"that look, so that {wrong}"
    ]


def _history(one: MetricVerdict) -> list[str]:
    lines, judged = [], one.judged
    if one.confirmed_by:
        lines.append(f"{judged.metric}: confirmed, {one.confirmed_by} in another session showed it")
    if one.small_harms:
        size = _amount(judged.metric, judged.scale == "log", one.small_harms)
        whole = "against the baseline itself" if one.evidence == "replicates" else "added up"
        lines.append(f"{judged.metric}: small harms since the last baseline, {whole}: {size}")
    return lines


def _amount(metric: str, of_logs: bool, value: float) -> str:
    return metric_named(metric).change(value)


def _core(result: GateResult) -> str:
    """CORE on the same examples, folded away: shown beside the verdict, deciding nothing."""
    if result.core is None:
        return ""
    body = "\n".join(core_markdown(result.core, tasks=True))
    return f"\n<details><summary>CORE task by task</summary>\n\n{body}\n</details>\n"


def _log(result: GateResult) -> str:
    """The end of a failed side's log, folded away."""
    if not result.log_tail:
        return ""
    tail = "\n".join(result.log_tail.splitlines()[-LOG_LINES:]).replace("```", "'''")
    summary = "<summary>the end of its log</summary>"
    return f"\n<details>{summary}\n\n```\n{tail}\n```\n</details>\n"


# --- plans ----------------------------------------------------------------------------------------


def print_plan(console: "Console", plan: GatePlan) -> None:
    """What a gate will take, cost and be able to say."""
    for line in plan_lines(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def plan_lines(plan: GatePlan) -> list[str]:
    """The plan, one line a fact."""
    lines = []
    for part in plan.parts:
        lines += _part_lines(part)
    budget = "" if plan.budget_s is None else f" of a budget of {_time(plan.budget_s)}"
    time = "unknown before a first launch" if plan.seconds is None else _time(plan.seconds)
    return [*lines, f"time: at most {time}{budget}", f"cost: {_cost(plan)}"]


def _part_lines(part: PartPlan) -> list[str]:
    what = (
        f"{part.n_b} launches of both sides"
        if part.evidence == "launches"
        else f"{part.n_b} runs against the baseline's {part.n_a}"
    )
    each = "" if part.unit_s is None else f", {_time(part.unit_s)} each"
    lines = [f"{part.metric}: up to {what}{each}; {_when(part)}"]
    if part.margin is not None:
        size = _amount(part.metric, part.metric in SPEEDS, part.margin)
        unit = "launch" if part.evidence == "launches" else "run"
        lines.append(f"  margin {size}, MDE {_mde(part)}, SD of one {unit} {_sd(part)}")
    if part.passes is not None and part.regression is not None:
        least = "at least " if part.rule == "open" else ""
        lines.append(
            f"  P(pass | no change) {least}{part.passes:.0%}, "
            f"P(regression | harm of the margin) {least}{part.regression:.0%}"
        )
    return lines + [f"  {note}" for note in part.notes]


def _when(part: PartPlan) -> str:
    """By which rule it is looked at."""
    if part.rule == "looks":
        return f"looks after {', '.join(map(str, part.looks)) or 'none'}"
    unit = "launch" if part.evidence == "launches" else "run"
    share = "" if part.until_s is None else f", {_time(part.until_s)} at most"
    return f"open: a look after each {unit} (mixture test){share}"


def _mde(part: PartPlan) -> str:
    if part.minimum_detectable is None:
        return "unknown"
    return _amount(part.metric, part.metric in SPEEDS, part.minimum_detectable)


def _sd(part: PartPlan) -> str:
    if part.sd is None:
        return "unknown"
    size = f"{part.sd:.2%}" if part.metric in SPEEDS else f"{part.sd:.2g}"
    return f"{size} ({part.df or 0:.3g} df)"


def _cost(plan: GatePlan) -> str:
    if plan.price_usd_per_hour is None:
        return "no price given (--price, USD per GPU-hour)"
    if plan.seconds is None:
        return "unknown"
    dollars = plan.price_usd_per_hour * max(1, plan.gpus) * plan.seconds / 3600
    return f"${dollars:,.2f}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
