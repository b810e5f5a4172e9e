"""The report of a gate: outcome, what was compared, one row per metric, notes."""

import re

import msgspec

from harness.compare.core import PairedCore
from harness.format import duration
from harness.gate.result import GateOutcome, GateResult, MetricVerdict, SideIdentity
from harness.report.compare import (
    about,
    change,
    detectable,
    interval,
    level,
    margin,
    picture,
    reading,
    verdict_words,
)
from harness.report.document import (
    Block,
    Cell,
    Column,
    Document,
    Notes,
    Section,
    Table,
    Text,
    Tone,
    present,
    table,
)
from harness.report.study import core

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
            metric_table(result.metrics, result.alpha),
            *_core(result.core),
            Notes(items=notes(result)),
            _log(result),
        ),
        data={**msgspec.to_builtins(result), "exit_code": result.exit_code},
    )


def metric_table(metrics: list[MetricVerdict], alpha: float) -> Table:
    """One row per metric; the interval is also drawn where there is room."""
    columns = [
        Column(title="metric"),
        Column(title="n", stacked=True),
        Column(title="B − A", align="right"),
        Column(title=f"{level(alpha)} interval", align="right", stacked=True),
        Column(title="margin", align="right"),
        Column(title="MDE", align="right", stacked=True),
        Column(title="outcome"),
        Column(title="better ┃ worse", optional=True),
    ]
    return table(columns, [_row(one) for one in metrics])


def _row(one: MetricVerdict) -> list[Cell | str]:
    judged = one.judged
    n = str(judged.n[0]) if judged.n[0] == judged.n[1] else f"{judged.n[0]}, {judged.n[1]}"
    outcome = Cell(
        text=verdict_words(judged), tone=TONES[judged.outcome], bold=judged.outcome is not None
    )
    return [
        judged.metric,
        f"{n} {one.evidence if one.evidence != 'trajectory' else 'steps'}",
        change(judged),
        interval(judged),
        margin(judged),
        detectable(judged),
        outcome,
        re.sub(r"\[[^\]]*\]", "", picture(judged)),
    ]


def side_lines(result: GateResult) -> list[str]:
    """What A and B are, one line each."""
    return [f"A: {_side(result.a)}", f"B: {_side(result.b)}"]


def _side(side: SideIdentity) -> str:
    parts = []
    if side.ref is not None:
        parts.append("the present code" if side.ref == "." else side.ref)
        parts.append(f"commit {side.commit[:10]}" if side.commit else "uncommitted")
    elif side.baseline is not None:
        parts.append(f"baseline {side.baseline}")
    parts += [f"{path}={value}" for path, value in side.set.items()]
    return ", ".join([*parts, f"code {side.code_id[:8]}", f"configuration {side.config_id[:8]}"])


def notes(result: GateResult) -> list[str]:
    """Looks, noise, margins, confirmations, sums of small harms, and how to read the table."""
    lines = []
    for one in result.metrics:
        lines += _look(one, result.alpha) + about(one.judged) + _history(one)
    lines += result.notes
    if result.baseline_hash and result.a.baseline:
        lines.append(f"baseline {result.a.baseline}, entry {result.baseline_hash[:10]}")
    if result.number:
        where = f" on {result.device}" if result.device else ""
        took = duration(result.ended_at - result.started_at)
        lines.append(f"gate {result.key} number {result.number}{where}, {took}")
    return [*lines, reading(result.alpha)] if result.metrics else lines


def _look(one: MetricVerdict, alpha: float) -> list[str]:
    if one.looks == 1 or one.outcome is None or one.judged.low is None:
        return []
    error = f"the error rate of all looks together stays below {100 * alpha:g} %"
    if one.rule == "always_valid":
        unit = "launch" if one.evidence == "launches" else "run"
        return [
            f"{one.judged.metric}: always-valid test, evaluated after each {unit} ({one.look} so "
            f"far); the interval is wider in return, and {error}"
        ]
    return [
        f"{one.judged.metric}: look {one.look} of {one.looks}; the interval is wider in return, "
        f"and {error}"
    ]


def _history(one: MetricVerdict) -> list[str]:
    lines, judged = [], one.judged
    if one.confirmed_by:
        lines.append(f"{judged.metric}: confirmed by {one.confirmed_by}, in another session")
    if one.small_harms:
        size = change(msgspec.structs.replace(judged, estimate=one.small_harms))
        against = "against the baseline itself" if one.evidence == "replicates" else "added up"
        lines.append(f"{judged.metric}: small harms since the last baseline, {against}: {size}")
    return lines


def _core(paired: PairedCore | None) -> list[Block]:
    """CORE on the same examples: informational. Task by task it is folded away."""
    if paired is None:
        return []
    totals = table(core.TOTAL_TITLES, [core.total_cells(paired, one) for one in paired.totals])
    pairs = table(core.PAIR_TITLES, [core.pair_cells(paired, i) for i in range(len(paired.tasks))])
    return [
        Section(title=core.heading(paired), blocks=[totals]),
        Section(
            title="CORE task by task",
            blocks=[pairs, Notes(items=core.sentences(paired, tasks=True))],
            folded=True,
        ),
    ]


def _log(result: GateResult) -> Section | None:
    """The end of a failed side's log, folded away."""
    if not result.log_tail:
        return None
    tail = "\n".join(result.log_tail.splitlines()[-LOG_LINES:])
    text = Text(paragraphs=[tail], preformatted=True)
    return Section(title="the end of its log", blocks=[text], folded=True)
