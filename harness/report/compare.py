"""A comparison as people and programs read it: terminal, Markdown, JSON.

The verdict first, then for each metric effect, interval, margin, smallest detectable effect, and
how many more runs would settle what is open. Reads nothing but a `Comparison`. After `judgement`,
before the commands.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.markup import escape

from harness import format
from harness.compare.core import PairedCore
from harness.compare.result import ComparedSide, Comparison, MetricResult
from harness.format import markdown_row
from harness.metrics import COMPARED, QUALITY
from harness.report.metric_text import detectable, estimate, interval, margin, means, noise, outcome
from harness.report.study import core
from harness.results.logs.read import MEMBER

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {"pass": "green", "regression": "red", "inconclusive": "yellow", None: "dim"}
MARKS = {"pass": "✅", "regression": "❌", "inconclusive": "❔", None: "–"}
PICTURE_COLUMNS, LEAST_WIDTH = 17, 104
MOST_SOURCES = 2
TOTAL_STACKS = ((0,), (1, 2), (3,), (4,), (5,))  # columns of CORE, those that share one stacked
PAIR_STACKS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11))


def print_comparison(console: "Console", found: Comparison, *, tasks: bool = False) -> None:
    """The whole comparison in the terminal; `tasks`: CORE task by task too."""
    style = STYLES[found.outcome]
    console.print(f"[bold reverse {style}] {found.outcome.upper()} [/] {escape(found.reason)}\n")
    for side in found.sides:
        console.print(_side_line(side), markup=False, highlight=False, soft_wrap=True)
    print_judgements(console, found.metrics, found.alpha)
    if found.core is not None:
        print_core(console, found.core, tasks=tasks)
    for line in footnotes(found):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def print_judgements(console: "Console", metrics: Sequence[MetricResult], alpha: float) -> None:
    """The table: a metric a row, with its interval drawn where the terminal is wide enough."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    pictured = console.width >= LEAST_WIDTH
    titles = ["metric", "A\nB", f"B − A\n{level(alpha)} interval", "margin\nMDE", "verdict"]
    if pictured:
        titles.insert(3, "better ┃ worse")
    for index, title in enumerate(titles):
        table.add_column(title, no_wrap=index < 3, justify="right" if index == 1 else "left")
    for judged in metrics:
        cells = [
            escape(judged.metric),
            "\n".join(means(judged)),
            f"{estimate(judged)}\n[dim]{escape(interval(judged) or format.DASH)}[/dim]",
            f"{margin(judged)}\n[dim]{detectable(judged).lstrip('±')}[/dim]",
            _verdict_cell(judged),
        ]
        if pictured:
            cells.insert(3, picture(judged))
        table.add_row(*cells)
    console.print(table)


def print_core(console: "Console", found: PairedCore, *, tasks: bool) -> None:
    """CORE of both sides on the same examples, as a whole and task by task."""
    console.print(core.heading(found), markup=False, highlight=False)
    console.print(_stacked(core.TOTAL_TITLES, _totals(found), TOTAL_STACKS))
    if tasks:
        console.print(_stacked(core.PAIR_TITLES, _pairs(found), PAIR_STACKS))
    for line in core.sentences(found, tasks=tasks):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _stacked(
    titles: Sequence[str], rows: Sequence[Sequence[str]], stacks: Sequence[Sequence[int]]
) -> "Table":
    """A table of few columns: each stacks some of `titles`, so that 80 characters are enough."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, stack in enumerate(stacks):
        title = "\n".join(titles[index] for index in stack)
        table.add_column(title, no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*(escape("\n".join(row[index] for index in stack)) for stack in stacks))
    return table


def _totals(found: PairedCore) -> list[list[str]]:
    return [core.total_cells(found, total) for total in found.totals]


def _pairs(found: PairedCore) -> list[list[str]]:
    return [core.pair_cells(found, index) for index in range(len(found.tasks))]


def core_markdown(found: PairedCore, *, tasks: bool) -> list[str]:
    """The same as lines of Markdown."""
    lines = [f"{core.heading(found)}:", ""]
    lines += _markdown_table(core.TOTAL_TITLES, _totals(found))
    if tasks:
        lines += _markdown_table(core.PAIR_TITLES, _pairs(found))
    return [*lines, *(f"- {line}" for line in core.sentences(found, tasks=tasks)), ""]


def _markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [markdown_row(titles), markdown_row(["---"] * len(titles))]
    return [*head, *map(markdown_row, rows), ""]


def as_json(found: Comparison) -> str:
    """The comparison as JSON; what is not known is null."""
    value = {**msgspec.to_builtins(found), "exit_code": found.exit_code}
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()


def as_markdown(found: Comparison, *, tasks: bool = False) -> str:
    """For a pull request: the verdict, one row a metric, the rest below."""
    lines = [f"### {MARKS[found.outcome]} {found.outcome}: {found.reason}", ""]
    lines += [
        f"| metric | n | A | B | B − A | {level(found.alpha)} interval | margin | MDE | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for judged in found.metrics:
        n = f"{judged.n[0]}, {judged.n[1]}"
        cells = [
            judged.metric,
            n,
            *means(judged),
            estimate(judged),
            interval(judged) or format.DASH,
        ]
        cells += [margin(judged), detectable(judged).lstrip("±"), outcome(judged)]
        lines.append(markdown_row(cells))
    lines += [""]
    if found.core is not None:
        lines += core_markdown(found.core, tasks=tasks)
    lines += [f"- {_side_line(side)}" for side in found.sides]
    lines += [f"- {line}" for line in footnotes(found)]
    return "\n".join(lines) + "\n"


def picture(judged: MetricResult) -> str:
    """The interval on a line, worse to the right: ┃ no change, ╎ the margin, ● what was seen."""
    if judged.low is None or judged.high is None or judged.estimate is None:
        return ""
    ends = sorted((judged.harm(judged.low), judged.harm(judged.high)))
    reach = max(map(abs, [*ends, 1.2 * (judged.margin or 0)])) or 1.0

    def column(value: float) -> int:
        return round((value / reach + 1) / 2 * (PICTURE_COLUMNS - 1))

    cells = ["─"] * PICTURE_COLUMNS
    for index in range(column(ends[0]), column(ends[1]) + 1):
        cells[index] = "━"
    cells[column(0)] = "┃"
    if judged.margin:
        cells[column(judged.margin)] = "╎"
    cells[column(judged.harm(judged.estimate))] = "●"
    return f"[{STYLES[judged.outcome]}]{''.join(cells)}[/]"


def footnotes(found: Comparison) -> list[str]:
    """Where noise and margins are from, what has to be known, and how to read it all."""
    lines = []
    for judged in found.metrics:
        lines += about(judged)
    lines += found.notes
    lines += [line for side in found.sides for line in side.broken]
    return [*lines, reading(found.alpha)]


def about(judged: MetricResult) -> list[str]:
    """Where one metric's noise and margin are from, and what has to be known of it."""
    if judged.margin is None and judged.metric in COMPARED and judged.metric not in QUALITY:
        return []
    sources = [line for line in (noise(judged), _margin_from(judged)) if line]
    lines = [f"{judged.metric}: {'; '.join(sources)}"] if sources else []
    reason = [judged.reason] if judged.reason else []
    return lines + [f"{judged.metric}: {note}" for note in (*judged.notes, *reason)]


def reading(alpha: float) -> str:
    """How to read the table."""
    return (
        f"pass: even the worse end of the {level(alpha)} interval is inside the margin. "
        "regression: even the better end is worse than no change. "
        f"Each is wrong in {100 * alpha:g} % of cases at most. "
        "MDE: the smallest harm that these runs would have set apart from none nine times in ten."
    )


def _margin_from(judged: MetricResult) -> str:
    return "" if judged.margin is None else f"margin {margin(judged)} ({judged.margin_from})"


# --- words ----------------------------------------------------------------------------------------


def _side_line(side: ComparedSide) -> str:
    names = _sources(side.sources)
    runs = f"{side.runs} run{'s' * (side.runs != 1)}"
    if side.whole < side.runs:
        runs = f"{side.whole} whole of {runs}"
    steps = f", {side.steps:,} steps" if side.steps else ""
    scale = side.scale or side.family
    return f"{side.name}  {runs}: {scale}{steps}, {' and '.join(side.gpus)}  {names}"


def _sources(sources: Sequence[str]) -> str:
    """Few names in full; many as the folder or the arm they share."""
    if len(sources) <= MOST_SOURCES:
        return ", ".join(sources)
    for mark, shown in ((MEMBER, ""), ("/", "/")):
        places = {source.rpartition(mark)[0] for source in sources}
        if len(places) == 1 and (place := places.pop()):
            return place + shown
    return f"{sources[0]} and {len(sources) - 1} more"


def level(alpha: float) -> str:
    """Of the interval whose ends are one-sided limits at alpha each."""
    return f"{100 * (1 - 2 * alpha):g} %"


def _verdict_cell(judged: MetricResult) -> str:
    words, _, rest = outcome(judged).partition(", ")
    cell = f"[bold {STYLES[judged.outcome]}]{escape(words)}[/]"
    return f"{cell}\n[dim]{escape(rest)}[/dim]" if rest else cell
