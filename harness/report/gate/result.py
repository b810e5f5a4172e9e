"""The report of a gate: outcome, what was compared, one row per metric, notes."""

import msgspec

from harness.format import duration, plural
from harness.gate.result import GateMetric, GateOutcome, GateResult, SideIdentity
from harness.redact import redact_text
from harness.report.compare import (
    core_blocks,
    reading,
    result_notes,
    results_table,
    rule_notes,
    target_blocks,
)
from harness.report.document import (
    Document,
    Notes,
    Section,
    Table,
    Text,
    Tone,
    present,
)
from harness.report.metric_text import number

LOG_LINES = 15
TONES: dict[GateOutcome | None, Tone] = {
    "pass": "pass",
    "regression": "regression",
    "inconclusive": "inconclusive",
    "could not run": "failed",
    None: "neutral",
}


def build_result(result: GateResult) -> Document:
    """The report of a gate for the terminal, a pull request and JSON."""
    could_not_run = result.outcome == "could not run"
    return Document(
        title="Gate",
        answer=f"could not run: {result.reason}" if could_not_run else result.reason,
        tone=TONES[result.outcome],
        blocks=present(
            Notes(items=side_lines(result)),
            metric_table(result.metrics),
            *target_blocks(result.targets),
            *core_blocks(result.core),
            Notes(items=notes(result)),
            log_section(result.log_tail),
        ),
        data={**msgspec.to_builtins(result), "exit_code": result.exit_code},
    )


UNITS = {
    "replicates": ("run",),
    "trajectory": ("step",),
    "launches": ("launch", "launches"),
}


def metric_table(metrics: list[GateMetric]) -> Table:
    """One row per metric; n counts runs, launches or steps."""
    counts = {}
    for one in metrics:
        n = one.result.n
        count = plural(n[1], *UNITS[one.evidence])
        counts[one.result.metric] = count if n[0] == n[1] else f"{n[0]}, {count}"
    return results_table([one.result for one in metrics], counts)


def side_lines(result: GateResult) -> list[str]:
    """What A and B are, one line each; none for a side that a failed gate did not resolve."""
    sides = (("A", _side(result.a)), ("B", _side(result.b)))
    return [f"{name}: {text}" for name, text in sides if text]


def _side(side: SideIdentity) -> str:
    parts = []
    if side.ref is not None:
        parts.append("the present code" if side.ref == "." else side.ref)
        if side.code_id:  # else the gate ended before it was read
            parts.append(f"commit {side.commit[:10]}" if side.commit else "uncommitted")
    if side.baseline is not None and (side.ref is None or not side.code_id):
        parts.append(f"baseline {side.baseline}")
    parts += [redact_text(f"{path}={value}") for path, value in side.set.items()]
    for name, identifier in (("code", side.code_id), ("configuration", side.config_id)):
        parts += [f"{name} {identifier[:8]}"] if identifier else []
    return ", ".join(parts)


def notes(result: GateResult) -> list[str]:
    """Looks, noise, margins, confirmations, sums of small harms, and how to read the table."""
    lines = [*_advice(result), *rule_notes([one.result for one in result.metrics])]
    for one in result.metrics:
        lines += result_notes(one.result) + _history(one)
    lines += result.notes
    if result.baseline_hash and result.a.baseline:
        lines.append(f"baseline {result.a.baseline}, entry {result.baseline_hash[:10]}")
    if result.number:
        where = f" on {result.device}" if result.device else ""
        took = duration(result.ended_at - result.started_at)
        lines.append(f"gate {result.key} number {result.number}{where}, {took}")
    return [*lines, reading(result.alpha)] if result.metrics else lines


def _advice(result: GateResult) -> list[str]:
    """What decides a gate that found too little evidence."""
    if not any(one.outcome == "inconclusive" and one.result.more_runs for one in result.metrics):
        return []
    return [
        "next: re-run the same command; it plans more runs or launches, at the error rate that "
        "this reading leaves"
    ]


def _history(one: GateMetric) -> list[str]:
    lines, result = [], one.result
    if one.confirmed_by:
        lines.append(f"{result.metric}: confirmed by {one.confirmed_by}, in another session")
    if one.small_harms:
        size = number(result, one.small_harms)
        against = "against the baseline itself" if one.evidence == "replicates" else "added up"
        lines.append(f"{result.metric}: small harms since the last baseline, {against}: {size}")
    return lines


def log_section(log_tail: str | None) -> Section | None:
    """The end of a log, folded away."""
    if not log_tail:
        return None
    tail = "\n".join(log_tail.splitlines()[-LOG_LINES:])
    text = Text(paragraphs=[tail], preformatted=True)
    return Section(title="the end of its log", blocks=[text], folded=True)
