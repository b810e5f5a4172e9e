"""What the drift watch says, on the terminal and as Markdown; what `harness drift` does.

The verdict first, then each metric with its level, its noise, its steps and the smallest step it
could have seen. After `drift`.
"""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness import errors, files
from harness.compare.drift import RECENT_NIGHTS, Series, Step, Watched, alarms, is_worse, watch
from harness.errors import UsageError
from harness.metrics import COMPARED
from harness.results.store import Store

if TYPE_CHECKING:
    from rich.console import Console


def drift(
    console: "Console",
    store: Store,
    margins: dict[str, float],
    *,
    recent: int = RECENT_NIGHTS,
    markdown: Path | None = None,
) -> int:
    """Prints the watch over a store: 10 where a recent step is worse, 3 where too few nights."""
    if unknown := sorted(set(margins) - set(COMPARED)):
        raise UsageError(
            "--margin", "one of " + ", ".join(COMPARED), unknown[0], "Name a metric of the records."
        )
    found = watch(store.records(), margins)
    lines = report(found, recent)
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    if markdown is not None:
        files.write_text(markdown, "\n".join(lines) + "\n")
    return exit_code(found, recent)


def exit_code(found: list[Series], recent: int) -> int:
    """The code of the worst: an alarm, nothing that could be looked at, or a pass."""
    if alarms(found, recent):
        return errors.REGRESSION
    looked = any(one.missing is None for series in found for one in series.watched)
    return errors.PASS if looked else errors.INCONCLUSIVE


def report(found: list[Series], recent: int) -> list[str]:
    """The whole watch as Markdown that reads well as plain text."""
    verdicts = {
        errors.REGRESSION: f"DRIFT: a level became worse in the last {recent} nights",
        errors.INCONCLUSIVE: "INCONCLUSIVE: too few nights of one configuration and seed",
        errors.PASS: f"PASS: no level became worse in the last {recent} nights",
    }
    lines = [f"**{verdicts[exit_code(found, recent)]}**"]
    for series in found:
        lines += ["", _head(series), "", *_table(series), *_steps(series)]
    return lines


def _head(series: Series) -> str:
    failed = f", {series.failed} failed" if series.failed else ""
    return (
        f"{series.trainer} {series.config_id[:12]}, seed {series.seed}, on {series.device}: "
        f"{series.nights} nights from {_day(series.since)} to {_day(series.until)}{failed}"
    )


def _table(series: Series) -> list[str]:
    rows = [
        "| metric | n | noise (SD of a night) | smallest step it could see a week later | steps |",
        "|---|---|---|---|---|",
    ]
    for one in series.watched:
        if one.missing is not None:
            cells = ["not known", "not known", one.missing]
        else:
            seen = [_size(one, value).lstrip("+") for value in (one.noise, one.detectable)]
            cells = [*seen, str(len(one.steps))]
        rows.append(f"| {' | '.join([one.metric, str(one.nights), *cells])} |")
    return rows


def _steps(series: Series) -> list[str]:
    lines = [_told(one, step) for one in series.watched for step in one.steps]
    return ["", *lines] if lines else []


def _told(one: Watched, step: Step) -> str:
    way = "worse" if is_worse(one.metric, step) else "better"
    changed = "; ".join(step.changed) or "nothing that the records tell"
    return (
        f"- {_day(step.at)}: {one.metric} {_size(one, step.size)} "
        f"[{_size(one, step.low)}, {_size(one, step.high)}], {way}; "
        f"n {step.nights[0]} before, {step.nights[1]} since. Changed that night: {changed}"
    )


def _size(one: Watched, value: float | None) -> str:
    if value is None:
        return "not known"
    metric = COMPARED[one.metric]
    if metric.scale == "log":
        return f"{100 * math.expm1(value):+.2f} %"
    return f"{value:+.3g} {metric.unit}".rstrip()


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
