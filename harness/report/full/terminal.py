"""What a full job says on the terminal: findings, the fit, the forecast, its price, the end.

Takes what was found and prints it; decides nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.full.cost import Cost
from harness.full.forecast import Estimate, Fitted, Forecast
from harness.full.leaderboard import LeaderboardEntry
from harness.full.predict import Prediction
from harness.full.preflight import worst_first
from harness.full.series import Made
from harness.runner.trainer import PreflightFinding

if TYPE_CHECKING:
    from rich.console import Console

SIGNS = {"stops": "[red]stops[/]", "warns": "[yellow]warns[/]", "told": "[yellow]told[/]"}


def say(console: "Console", text: str) -> None:
    """One line, as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_findings(
    console: "Console", findings: Sequence[PreflightFinding], *, all_of_them: bool
) -> None:
    """Expected, got and hint, worst first; or only what is not as it should be."""
    bad = [one for one in findings if not one.ok]
    if all_of_them or bad:
        _print_findings(console, findings if all_of_them else bad)
    if not all_of_them:
        right = f"{len(findings) - len(bad)} of {len(findings)} findings"
        say(console, f"preflight: {right} are as they should be (--preflight shows them)")


def _print_findings(console: "Console", findings: Sequence[PreflightFinding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="preflight", title_justify="left")
    for title in ("", "what", "expected", "got", "hint"):
        table.add_column(title, overflow="fold", no_wrap=not title)
    for one in worst_first(findings):
        sign = "[green]✓[/]" if one.ok else SIGNS[one.severity]
        cells = (one.what, one.expected, one.got, "" if one.ok else one.hint or "")
        table.add_row(sign, *map(escape, cells))
    console.print(table)


def print_foretold(console: "Console", foretold: Prediction) -> None:
    """What the proxies say, or why they say nothing."""
    if foretold.forecast is None:
        say(console, f"no forecast: {foretold.why_none}")
        return
    for fitted in foretold.forecast.fits:
        _print_fit(console, fitted)
    for line in forecast_lines(foretold.forecast):
        say(console, line)
    if foretold.why_no_band is not None:
        say(console, f"no band for the loss on its way: {foretold.why_no_band}")


def _print_fit(console: "Console", fitted: Fitted) -> None:
    from rich.table import Table

    say(console, f"{fitted.metric}: {fitted.law}")
    table = Table()
    for title in ("size", "runs", "mean", "minus the law"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = zip(fitted.sizes, fitted.runs, fitted.means, fitted.residuals, strict=True)
    for size, runs, mean, residual in rows:
        table.add_row(size, str(runs), f"{mean:.5f}", f"{residual:+.5f}")
    console.print(table)


def forecast_lines(found: Forecast) -> list[str]:
    """The forecast of each metric, then what it rests on."""
    lines = [f"forecast of val_bpb: {_between(found.val_bpb, 4)}"]
    if found.core is not None:
        chance = ""
        if found.p_core is not None:
            chance = f"; above {found.core_target} with probability {found.p_core:.2f}"
        lines.append(f"forecast of CORE: {_between(found.core, 4)}{chance}")
    if found.core_soft is not None:
        lines.append(f"forecast of soft CORE: {_between(found.core_soft, 4)}")
    return [*lines, *(f"  {note}" for note in found.notes)]


def cost_lines(cost: Cost) -> list[str]:
    """Time and money, then what they rest on."""
    lines = [
        f"forecast of training time: {_hours(cost.train_s)}; as the field counts it "
        f"{_hours(cost.field_s)}",
        f"forecast of wall time: {_hours(cost.wall_s)}: "
        + ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost.parts),
    ]
    if cost.usd is not None:
        lines.append(f"forecast of cost: {_between(cost.usd, 2)} USD")
    return [*lines, *(f"  {note}" for note in cost.notes)]


def against_lines(foretold: Prediction, row: LeaderboardEntry) -> list[str]:
    """What was foretold beside what it came to."""
    pairs: list[tuple[str, Estimate | None, float | None, int]] = []
    if (found := foretold.forecast) is not None:
        pairs += [("val_bpb", found.val_bpb, row.val_bpb, 4), ("CORE", found.core, row.core, 4)]
    if (cost := foretold.cost) is not None:
        pairs.append(("seconds, as the field counts them", cost.field_s, row.train_s, 1))
    return [
        f"foretold of {name}: {_between(estimate, digits)}; it came to {got:,.{digits}f}, "
        f"{'inside' if estimate.holds(got) else 'outside'}"
        for name, estimate, got, digits in pairs
        if estimate is not None and got is not None
    ]


def proxy_line(made: Made) -> str:
    """What became of a proxy."""
    record = made.record
    if record is None:
        return f"{made.proxy.label}: not begun"
    text = f"{made.proxy.label}: {record.status.replace('_', ' ')} in {duration(record.wall_s)}"
    bpb, core = record.metrics.get("val_bpb"), record.metrics.get("core")
    text += f", {bpb:.5f} bpb" if bpb is not None else ""
    text += f", CORE {core:.4f}" if core is not None else ""
    return text if record.status == "completed" else f"{text}: {record.reason}"


def _between(found: Estimate, digits: int) -> str:
    low, middle, high = (f"{x:,.{digits}f}" for x in (found.low, found.estimate, found.high))
    return f"{middle} [{low}, {high}] ({found.level:.0%})"


def _hours(found: Estimate) -> str:
    if found.high < 5400:
        return f"{_between(found, 1)} s"
    low, middle, high = (f"{x / 3600:.2f}" for x in (found.low, found.estimate, found.high))
    return f"{middle} h [{low}, {high}] ({found.level:.0%})"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
