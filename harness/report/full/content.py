"""The reports of a full job as documents: preflight, forecast, cost, leaderboard entry, page.

The charts need matplotlib (extra `report`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness import format
from harness.format import duration, percent
from harness.full.cost import Cost
from harness.full.forecast import Estimate, FittedLaw, Forecast
from harness.full.job import FinishedJob
from harness.full.job_forecast import JobForecast
from harness.full.leaderboard import COLUMNS, LeaderboardEntry, as_markdown, cells, details
from harness.full.listener import ForecastCheck, ProxyResult
from harness.full.loss_envelope import LossEnvelope
from harness.full.preflight import Preflight, worst_first
from harness.report.chart import BASE, HELPS, HURTS, INK, legend, new_axes, style
from harness.report.document import (
    Block,
    Cell,
    Chart,
    Column,
    Document,
    Notes,
    Section,
    Table,
    Text,
    Tone,
    number,
    present,
    table,
)
from harness.runner.replies import PreflightFinding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (7.5, 4.2)  # of a chart
TONES: dict[str, Tone] = {"error": "failed", "warning": "inconclusive", "info": "neutral"}
HOW = [
    "An interval of a forecast contains one run with its stated probability: it is a profile "
    "likelihood interval of a scaling law, penalized towards published laws.",
    "CORE is forecast over val_bpb and includes the uncertainty of the target's val_bpb.",
    "The loss envelope is for a whole run: its false alarm rate is split over all looks.",
    "The leaderboard time is the training time without steps 0 to 10, as nanochat counts it.",
]


def preflight_document(preflight: Preflight, *, every_finding: bool) -> Document:
    """Findings with expected, got and hint, worst first; without `every_finding` only problems."""
    findings = worst_first(preflight.findings)
    good = sum(one.ok for one in findings)
    answer = f"preflight: {good} of {len(findings)} findings are as expected"
    if not every_finding:
        findings = [one for one in findings if not one.ok]
        answer += " (--preflight prints all of them)"
    columns = ["", "finding", "expected", "got", "hint"]
    rows = [_finding_row(one) for one in findings]
    return Document(
        title="Preflight",
        answer=answer,
        tone="failed" if preflight.errors else "neutral",
        blocks=present(table(columns, rows)),
        data=preflight,
    )


def _finding_row(one: PreflightFinding) -> list[Cell]:
    mark = (
        Cell(text="✓", tone="pass") if one.ok else Cell(text=one.severity, tone=TONES[one.severity])
    )
    texts = (one.what, one.expected, one.got, "" if one.ok else one.hint or "")
    return [mark, *(Cell(text=text) for text in texts)]


# --- forecast -------------------------------------------------------------------------------------


def forecast_document(forecast: JobForecast) -> Document:
    """The fitted laws and the forecast of each metric, or why there is none."""
    if forecast.forecast is None:
        return Document(
            title="Forecast",
            answer=f"no forecast: {forecast.no_forecast_reason}",
            data=forecast,
        )
    quality = forecast.forecast
    notes = list(quality.notes)
    if forecast.no_envelope_reason is not None:
        notes.append(f"no loss envelope: {forecast.no_envelope_reason}")
    return Document(
        title="Forecast",
        answer="\n".join(_forecast_lines(quality)),
        blocks=present(*map(_sizes_table, quality.fits), Notes(items=notes)),
        data=forecast,
    )


def _forecast_lines(forecast: Forecast) -> list[str]:
    lines = [f"forecast of val_bpb: {interval(forecast.val_bpb, 4)}"]
    if forecast.core is not None:
        chance = ""
        if forecast.p_core is not None:
            chance = f"; above {forecast.core_target:g} with probability {forecast.p_core:.2f}"
        lines.append(f"forecast of CORE: {interval(forecast.core, 4)}{chance}")
    if forecast.core_soft is not None:
        lines.append(f"forecast of core_soft: {interval(forecast.core_soft, 4)}")
    return lines


def _sizes_table(fitted: FittedLaw) -> Table:
    columns = [*map(number, ("size", "runs", "mean", "minus the law"))]
    rows = zip(fitted.sizes, fitted.runs, fitted.means, fitted.residuals, strict=True)
    return table(
        columns,
        [[size, str(runs), f"{mean:.5f}", f"{off:+.5f}"] for size, runs, mean, off in rows],
        title=fitted.metric,
        caption=fitted.law,
    )


def cost_document(cost: Cost) -> Document:
    """Time and money, then what they are based on."""
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost.parts)
    lines = [
        f"forecast of training time: {hours(cost.train_s)}; leaderboard time "
        f"{hours(cost.leaderboard_s)}",
        f"forecast of wall time: {hours(cost.wall_s)}: {parts}",
    ]
    if cost.usd is not None:
        lines.append(f"forecast of cost: {interval(cost.usd, 2, 'USD')}")
    return Document(
        title="Cost", answer="\n".join(lines), blocks=[Notes(items=cost.notes)], data=cost
    )


def interval(estimate: Estimate, digits: int, unit: str = "", divisor: float = 1.0) -> str:
    """'0.7312 [0.7200, 0.7405] (90%)'."""
    values = (estimate.low, estimate.estimate, estimate.high)
    low, middle, high = (f"{value / divisor:,.{digits}f}" for value in values)
    return f"{middle}{unit and f' {unit}'} [{low}, {high}] ({percent(estimate.level, 0)})"


def hours(estimate: Estimate) -> str:
    """A time in seconds as hours, or as seconds below 90 minutes."""
    if estimate.high < 5400:
        return interval(estimate, 1, "s")
    return interval(estimate, 2, "h", 3600)


def proxy_line(result: ProxyResult) -> str:
    """The outcome of a proxy as one line."""
    record, label = result.record, result.proxy.label
    if record is None:
        return f"{label}: not started"
    text = f"{label}: {record.status.replace('_', ' ')} after {duration(record.wall_s)}"
    bpb, core = record.metrics.get("val_bpb"), record.metrics.get("core")
    text += f", val_bpb {bpb:.5f}" if bpb is not None else ""
    text += f", CORE {core:.4f}" if core is not None else ""
    return text if record.status == "completed" else f"{text}: {record.reason}"


# --- the entry ------------------------------------------------------------------------------------


def entry_document(entry: LeaderboardEntry, checks: Sequence[ForecastCheck]) -> Document:
    """The leaderboard entry as Markdown to copy, and each forecast beside the measured value."""
    return Document(
        title="Leaderboard entry",
        answer=_entry_answer(entry),
        blocks=present(
            Text(paragraphs=[as_markdown(entry)], preformatted=True),
            Text(paragraphs=[_check_line(check) for check in checks]),
        ),
        data=entry,
    )


def _entry_answer(entry: LeaderboardEntry) -> str:
    core = "not evaluated" if entry.core is None else f"{entry.core:.4f}"
    return (
        f"CORE {core}, target {entry.target:g}: {'reached' if entry.reached else 'not reached'}; "
        f"leaderboard time {format.hours(entry.train_s)} h"
    )


def _check_line(check: ForecastCheck) -> str:
    where = "inside" if check.forecast.contains(check.measured) else "outside"
    return (
        f"forecast of {check.name}: {interval(check.forecast, check.digits)}; measured "
        f"{check.measured:,.{check.digits}f}: {where} the interval"
    )


# --- the page -------------------------------------------------------------------------------------


def job_document(name: str, forecast: JobForecast, finished: FinishedJob | None = None) -> Document:
    """The report of a job: its entry first, then forecasts, scaling laws and the loss curve."""
    entry = finished.entry if finished is not None else None
    quality = forecast.forecast
    answer = _entry_answer(entry) if entry is not None else forecast.no_forecast_reason or ""
    if quality is not None and entry is None:
        answer = "; ".join(_forecast_lines(quality))
    sections = [
        _entry_section(entry) if entry is not None else None,
        _forecast_section(forecast, entry),
        *([_law_section(one, quality, entry) for one in quality.fits] if quality else []),
        _loss_section(forecast, finished),
        Section(title="Method", blocks=[Notes(items=HOW)], folded=True),
    ]
    return Document(
        title=f"{name}: full job", answer=answer, blocks=present(*sections), data=forecast
    )


def _entry_section(entry: LeaderboardEntry) -> Section:
    blocks: list[Block] = [table(COLUMNS, [cells(entry)]), Notes(items=details(entry))]
    return Section(title="Leaderboard entry", blocks=blocks)


def _forecast_section(forecast: JobForecast, entry: LeaderboardEntry | None) -> Section | None:
    quality, cost = forecast.forecast, forecast.cost
    rows = []
    if quality is not None:
        rows += [
            _row(name, getattr(quality, name), ".4f", getattr(entry, name, None))
            for name in ("val_bpb", "core", "core_soft")
        ]
    if cost is not None:
        train_s, wall_s, usd = (getattr(entry, name, None) for name in ("train_s", "wall_s", "usd"))
        rows += [
            _row("leaderboard time (s)", cost.leaderboard_s, ",.0f", train_s),
            _row("wall time (s)", cost.wall_s, ",.0f", wall_s),
            _row("cost (USD)", cost.usd, ",.2f", usd),
        ]
    notes = [*(quality.notes if quality else []), *(cost.notes if cost else [])]
    if quality is not None and quality.p_core is not None:
        notes.insert(0, f"P(CORE > {quality.core_target:g}) = {quality.p_core:.2f}")
    columns: list[Column | str] = ["", *map(number, ("forecast", "interval", "measured"))]
    shown = table(columns, [row for row in rows if row])
    blocks = present(shown, Notes(items=notes))
    return Section(title="Forecast", blocks=blocks) if blocks else None


def _row(name: str, forecast: Estimate | None, form: str, measured: float | None) -> list[str]:
    if forecast is None:
        return []
    ends = f"{forecast.low:{form}} to {forecast.high:{form}}"
    value = "–" if measured is None else f"{measured:{form}}"
    return [name, f"{forecast.estimate:{form}}", ends, value]


def _law_section(fitted: FittedLaw, forecast: Forecast, entry: LeaderboardEntry | None) -> Section:
    target = getattr(forecast, fitted.metric)
    measured = getattr(entry, fitted.metric) if entry is not None else None
    chart = Chart(
        draw=lambda: scaling_law(fitted, target, measured),
        alt=f"{fitted.metric} over size, with the fitted law and the forecast of the target",
    )
    return Section(title=f"Scaling law of {fitted.metric}", blocks=[chart, _sizes_table(fitted)])


def _loss_section(forecast: JobForecast, finished: FinishedJob | None) -> Section | None:
    envelope = forecast.envelope
    if envelope is None:
        return None
    points = finished.loss_points if finished is not None else []
    chart = Chart(
        draw=lambda: loss_envelope(envelope, points),
        alt="training loss of the run inside its envelope",
    )
    return Section(title="Training loss", blocks=[chart])


# --- the charts -----------------------------------------------------------------------------------


def scaling_law(fitted: FittedLaw, target: Estimate, measured: float | None) -> "Figure":
    """One metric over sizes up to the target, with the forecast and the measured value."""
    figure, axes = new_axes(*SIZE_INCHES)
    _shaded(axes, [x for x, _ in fitted.curve], [one for _, one in fitted.curve], "one run")
    axes.plot(fitted.x, fitted.means, "o", color=BASE, label="proxies")
    for size, x, mean in zip(fitted.sizes, fitted.x, fitted.means, strict=True):
        axes.annotate(
            size, (x, mean), (0, 6), textcoords="offset points", fontsize=8, color=INK, ha="center"
        )
    axes.errorbar(
        [fitted.target_x],
        [target.estimate],
        yerr=[[target.estimate - target.low], [target.high - target.estimate]],
        fmt="D",
        color=HELPS,
        capsize=4,
        label=f"forecast, {percent(target.level, 0)} interval",
    )
    if measured is not None:
        axes.plot([fitted.target_x], [measured], "x", color=HURTS, markersize=9, label="measured")
    if fitted.metric == "val_bpb":
        axes.set_xscale("log")
        style(axes, x="training FLOPs", y="val_bpb (bits per byte)")
    else:
        axes.invert_xaxis()
        style(axes, x="val_bpb (bits per byte)", y=fitted.metric)
    legend(axes)
    return figure


def loss_envelope(envelope: LossEnvelope, points: Sequence[tuple[float, float]]) -> "Figure":
    """The training loss of a run inside its envelope."""
    figure, axes = new_axes(*SIZE_INCHES)
    levels = [look.loss for look in envelope.looks]
    _shaded(axes, [look.fraction for look in envelope.looks], levels, "envelope")
    if points:
        axes.plot(*zip(*points, strict=True), color=HURTS, linewidth=0.8, label="run")
    axes.set_xlim(0, 1)
    axes.set_ylim(0.97 * min(one.low for one in levels), 1.03 * max(one.high for one in levels))
    style(axes, x="fraction of the run", y="training loss (nats per token)")
    legend(axes)
    return figure


def _shaded(axes: "Axes", x: Sequence[float], estimates: Sequence[Estimate], name: str) -> None:
    """A shaded interval along x, with its middle."""
    low, high = [one.low for one in estimates], [one.high for one in estimates]
    label = f"{name}, {percent(estimates[0].level)} interval"
    axes.fill_between(x, low, high, color=HELPS, alpha=0.18, linewidth=0, label=label)
    axes.plot(x, [one.estimate for one in estimates], color=HELPS, linestyle="dashed")
