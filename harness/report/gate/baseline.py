"""The reports of `harness baseline`: the list of baselines, one baseline, and a promotion."""

import datetime
from collections.abc import Sequence
from typing import Any

from harness.format import plural
from harness.gate.baseline import Baseline, BaselineEntry
from harness.gate.promotion import PromotionResult
from harness.metrics import COMPARED, METRICS
from harness.report.compare import results_table
from harness.report.document import Column, Document, Notes, Text, Tone, present, table


def build_list(baselines: Sequence[Baseline], root: str) -> Document:
    """Every baseline, one row each."""
    rows = [
        [
            one.place,
            str(len(one.now.records)),
            _day(one.now),
            str(len(one.entries)),
            one.now.why,
        ]
        for one in baselines
    ]
    columns: list[Column | str] = [
        "baseline",
        Column(title="runs", align="right"),
        "stored",
        Column(title="entries", align="right"),
        "why",
    ]
    answer = f"{plural(len(baselines), 'baseline')} under {root}"
    if not baselines:
        answer = f"No baseline under {root}; record one with `harness baseline record NAME CONFIG`."
    return Document(
        title="Baselines",
        answer=answer,
        blocks=present(table(columns, rows)),
        data=[_summary(one) for one in baselines],
    )


def build_baseline(baseline: Baseline) -> Document:
    """One baseline: its entries, oldest first, and the runs of the current one."""
    records = baseline.now.records
    names = [name for name in COMPARED if any(one.metrics.get(name) is not None for one in records)]
    rows = [
        [str(one.seed), *(METRICS[name].value(one.metrics.get(name)) for name in names)]
        for one in records
    ]
    columns = [
        Column(title=name, align="right", optional=index > 2)
        for index, name in enumerate(("seed", *names))
    ]
    return Document(
        title=f"Baseline {baseline.place}",
        answer=f"{baseline.place} on {baseline.gpu}: {baseline.now.why}",
        blocks=present(
            *(Text(paragraphs=entry_lines(entry)) for entry in baseline.entries),
            table(columns, rows, title=f"Runs of entry {baseline.now.number}"),
        ),
        data=baseline,
    )


def build_promotion(result: PromotionResult) -> Document:
    """What `record` and `accept` stored, or why `accept` refused."""
    stored = result.stored
    answer = f"not accepted: {result.reason}"
    if stored is not None:
        answer = f"stored entry {stored.now.number} of {stored.place}"
    return Document(
        title="Baseline promotion",
        answer=answer,
        tone=_tone(result),
        blocks=present(
            results_table(result.evidence.metrics if result.evidence else []),
            Text(paragraphs=entry_lines(stored.now)) if stored else None,
            Notes(items=[f"file: {result.path}"] if result.path else []),
        ),
        data=_promotion_data(result),
    )


def _tone(result: PromotionResult) -> Tone:
    if result.evidence is None:
        return "neutral"
    if result.stored is not None:
        return "pass"
    return "regression" if result.evidence.outcome == "regression" else "inconclusive"


def _promotion_data(result: PromotionResult) -> dict[str, Any]:
    return {
        "accepted": result.stored is not None,
        "reason": result.reason,
        "baseline": result.stored.place if result.stored else None,
        "path": str(result.path) if result.path else None,
        "entry": result.stored.now if result.stored else None,
        "evidence": result.evidence,
        "exit_code": result.exit_code,
    }


def entry_lines(entry: BaselineEntry) -> list[str]:
    """One entry: why, how many runs, which code, and the comparison that justified it."""
    code = f"commit {entry.commit[:10]}" if entry.commit else "uncommitted code"
    seeds = ", ".join(map(str, entry.seeds))
    runs = plural(len(entry.records), "run")
    lines = [
        f"entry {entry.number}, {_day(entry)}: {entry.why}",
        f"  {runs} (seeds {seeds}), {code}, hash {entry.hash[:10]}",
    ]
    if entry.evidence is not None:
        metrics = [
            f"{one.metric} {one.estimate:+.3g} ({one.outcome or 'informational'})"
            for one in entry.evidence.metrics
            if one.estimate is not None
        ]
        evidence = f"{entry.evidence.outcome} at alpha {entry.evidence.alpha:g}"
        lines.append(f"  evidence: {evidence}; {', '.join(metrics)}")
    return lines


def _summary(baseline: Baseline) -> dict[str, Any]:
    return {
        "place": baseline.place,
        "gpu": baseline.gpu,
        "gpus": baseline.gpus,
        "protocol": baseline.protocol,
        "runs": len(baseline.now.records),
        "entries": len(baseline.entries),
        "stored_at": baseline.now.stored_at,
        "why": baseline.now.why,
    }


def _day(entry: BaselineEntry) -> str:
    return datetime.datetime.fromtimestamp(entry.stored_at, datetime.UTC).strftime("%Y-%m-%d")
