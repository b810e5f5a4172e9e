"""The report in the terminal: effects, arms, runs, no-effect tricks, warnings, price.

Prints with rich to the console it is given; reads nothing but a `Content`.
"""

from statistics import fmean, stdev
from typing import TYPE_CHECKING

from rich.markup import escape

from harness import format
from harness.compare.result import MetricResult
from harness.metrics import COSTS
from harness.report.study import core, phrases
from harness.report.study.content import Content, settings
from harness.report.study.core_tasks import StudyCore

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_ROWS = 20  # of runs that did not complete; the rest is in report.html


def print_content(console: "Console", content: Content) -> None:
    """The whole report, first line first."""
    found = content.found
    for line in found.headlines:
        console.print(line, style="bold yellow", markup=False)
    console.print(f"{found.study}: {found.question}", style="bold", markup=False)
    console.print(f"{phrases.progress_line(found)} {phrases.price_line(found)}.", markup=False)
    console.print(_effects(content))
    if content.has_time:
        console.print(_times(content))
    console.print(_costs(content))
    for sentence in (
        "* outside its noise interval. MDE: the smallest true change that this comparison would "
        "have set apart from zero nine times in ten.",
        phrases.base_line(found),
        phrases.how_to_read(found),
        phrases.noise_line(found, found.primary),
        phrases.noise_line(found, found.speed),
        phrases.slope_line(found),
        phrases.winner_line(found),
    ):
        if sentence:
            console.print(sentence, style="dim", markup=False)
    console.print(_arms(content))
    console.print(_runs(content))
    if content.core is not None:
        _core(console, content, content.core)
    if (unfinished := _unfinished(content)) is not None:
        console.print(unfinished)
    _barnacles(console, content)
    for heading, lines in (
        ("Missing", phrases.missing_lines(found)),
        ("Warnings", phrases.all_warnings(found)),
    ):
        if lines:
            console.print(heading, style="bold yellow")
        for line in lines:
            console.print(f"  {line}", markup=False)


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table


def _effects(content: Content) -> "Table":
    found, labels = content.found, phrases.short_labels(content.found)
    rest = [metric for metric in content.metrics[1:] if metric not in COSTS]
    columns = ["trick", "runs", found.primary, "MDE", *(phrases.title(name) for name in rest)]
    table = _table(phrases.effects_title(found), *columns)
    for arm in content.ranked:
        table.add_row(
            escape(labels[arm.name]),
            phrases.runs_of(arm),
            _cell(arm.effects[found.primary]),
            phrases.detectable(arm.effects[found.primary]),
            *(_cell(arm.effects[metric]) for metric in rest),
        )
    return table


def _core(console: "Console", content: Content, found: StudyCore) -> None:
    """The base task by task, then what every arm changes in each."""
    labels = phrases.short_labels(content.found)
    table = _table(f"CORE by task: {content.found.base}", *core.TASK_TITLES)
    for index, column in enumerate(table.columns):
        column.no_wrap = index > 0  # the names of tasks are the longest cells
    for cells in core.task_rows(found.base):
        table.add_row(*map(escape, cells))
    console.print(table)
    compared = {labels[name]: pair for name, pair in found.arms.items() if pair is not None}
    changes = _table("Change of accuracy by task", "task", *map(escape, compared))
    for cells in core.change_rows(list(compared.values())):
        changes.add_row(*cells)
    if compared:
        console.print(changes)
    for line in core.study_sentences(list(compared.values()), found.missing):
        console.print(line, style="dim", markup=False)


def _times(content: Content) -> "Table":
    labels = phrases.short_labels(content.found)
    columns = ("trick", "training time", "MDE", "in ln T: quality + speed")
    table = _table("Time to the base's final loss", *columns)
    for arm in content.ranked:
        if arm.time_to_target is None:
            continue
        total = arm.time_to_target.total
        parts = phrases.parts(arm.time_to_target)
        table.add_row(
            escape(labels[arm.name]), _cell(total), phrases.detectable(total), escape(parts)
        )
    return table


def _costs(content: Content) -> "Table":
    labels = phrases.short_labels(content.found)
    costs = [metric for metric in content.metrics if metric in COSTS]
    columns = [*(phrases.title(metric) for metric in costs), "parameters", "FLOPs/token"]
    table = _table("And in size", "trick", *columns)
    for arm in content.ranked:
        table.add_row(
            escape(labels[arm.name]),
            *(_cell(arm.effects[metric]) for metric in costs),
            phrases.change_of_count(arm.parameters.delta),
            phrases.change_of_count(arm.flops_per_token.delta),
        )
    return table


def _cell(effect: MetricResult) -> str:
    if effect.missing:
        return format.DASH
    shown = escape(phrases.estimate(effect))
    if effect.outside:
        shown = f"[bold]{shown} *[/bold]"
    below = phrases.interval(effect)
    return f"{shown}\n[dim]{escape(below)}[/dim]" if below else shown


def _arms(content: Content) -> "Table":
    table = _table("Arms", "arm", "against the base file", "parameters", "FLOPs/token")
    for arm in content.study.arms:
        if arm.role == "retune":
            continue
        lines = [
            escape(f"{_BEFORE[kind]}{line}")
            for kind, kept in settings(arm).items()
            for line in kept
        ]
        table.add_row(
            escape(arm.name),
            "\n".join(lines) or format.DASH,
            format.count(arm.derived.get("parameters_total")),
            format.count(arm.derived.get("flops_per_token")),
        )
    return table


_BEFORE = {"overrides": "", "pinned": "pinned: ", "retuned": "retuned: ", "untuned": "untuned: "}


def _runs(content: Content) -> "Table":
    """One line an arm; single runs are in report.html and report.json."""
    found = content.found
    columns = ("arm", "done", found.primary, "SD", phrases.title(found.speed), "run time")
    table = _table("Runs", *columns)
    for arm in content.study.arms:
        rows = [row for row in found.runs if row.arm == arm.name]
        done = [row for row in rows if row.status == "completed"]
        values = [v for row in done if (v := row.metrics.get(found.primary)) is not None]
        speeds = [v for row in done if (v := row.metrics.get(found.speed)) is not None]
        walls = [row.wall_s for row in done if row.wall_s is not None]
        table.add_row(
            escape(arm.name),
            f"{len(done)}/{len(rows)}",
            f"{fmean(values):.5f}" if values else format.DASH,
            f"{stdev(values):.2g}" if len(values) > 1 else format.DASH,
            f"{fmean(speeds):,.0f}" if speeds else format.DASH,
            format.duration(fmean(walls)) if walls else format.DASH,
        )
    return table


def _unfinished(content: Content) -> "Table | None":
    rows = [row for row in content.found.runs if row.status not in ("completed", "not run")]
    if not rows:
        return None
    table = _table("Runs that did not complete", "arm", "seed", "status", "attempts", "reason")
    for row in rows[:MOST_ROWS]:
        reason = escape(row.reason or "")
        table.add_row(escape(row.arm), str(row.seed), row.status, str(row.attempts), reason)
    if len(rows) > MOST_ROWS:
        table.add_row("…", "", "", "", f"{len(rows) - MOST_ROWS} more in report.html")
    return table


def _barnacles(console: "Console", content: Content) -> None:
    found = content.found
    if found.no_effect_tricks is None:
        console.print("No margin is set (decide.margin), so no trick can be called idle.")
        return
    if not found.no_effect_tricks:
        console.print("No trick lies inside the margin: none can be called idle.")
        return
    table = _table(
        "No-effect tricks: tricks whose effect lies inside the margin",
        "trick",
        "inside",
        "but pays in",
        "lines",
        "parameters",
        "memory",
        "compile",
    )
    for item in found.no_effect_tricks:
        table.add_row(
            item.trick,
            phrases.joined(f"±{margin:g} {metric}" for metric, margin in item.inside.items()),
            phrases.joined(phrases.title(metric) for metric in item.pays_in),
            str(item.lines),
            phrases.change_of_count(item.parameters),
            format.mebibytes(item.peak_memory_bytes),
            format.duration(item.compile_s),
        )
    console.print(table)
