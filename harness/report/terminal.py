"""Renders a document in the terminal, at any width from 80 columns on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.escape import escape
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
    without_charts,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as RichText

STYLES: dict[Tone, str] = {
    "pass": "green",
    "regression": "red",
    "inconclusive": "yellow",
    "failed": "red",
    "neutral": "",
}
_GAP = 3  # blank columns between two columns of a table
_EDGES = 2  # blank columns around it


def print_document(console: "Console", document: Document, *, details: bool = False) -> None:
    """Prints the answer, then every block. `details`: folded sections too."""
    from rich.text import Text as RichText

    answer = RichText()
    if document.tone != "neutral":
        answer.append(f" {document.tone.upper()} ", f"bold reverse {STYLES[document.tone]}")
        answer.append(" ")
    answer.append(escape(document.answer, "log"), "bold" if document.tone == "neutral" else "")
    console.print(answer, soft_wrap=not console.is_terminal)
    folded = _print_blocks(console, without_charts(document.blocks), details)
    if folded and not details:
        _print_line(console, f"\nLeft out here: {', '.join(folded)}.", "dim")


def _print_blocks(console: "Console", blocks: Sequence[Block], details: bool) -> list[str]:
    """Prints what is not folded, or all; returns the titles of folded sections."""
    folded = []
    for block in blocks:
        if isinstance(block, Table):
            _print_table(console, block)
        elif isinstance(block, Notes):
            _print_notes(console, block)
        elif isinstance(block, Section):
            if block.folded:
                folded.append(block.title)
            if not block.folded or details:
                _print_line(console, f"\n{block.title}", "bold")
                folded += _print_blocks(console, block.blocks, details)
        elif isinstance(block, Text):
            for paragraph in block.paragraphs:
                _print_line(console, paragraph)
    return folded


def _print_line(console: "Console", text: str, style: str = "") -> None:
    """One paragraph: wrapped at words in a terminal, one line in a file."""
    soft = not console.is_terminal
    console.print(escape(text, "log"), style=style, markup=False, highlight=False, soft_wrap=soft)


def _print_notes(console: "Console", notes: Notes) -> None:
    style = "yellow" if notes.warning else "dim"
    if notes.title:
        _print_line(console, f"\n{notes.title}", "bold")
    for item in notes.items:
        _print_line(console, f"- {item}" if notes.title else item, style)


def _print_table(console: "Console", table: Table) -> None:
    from rich import box
    from rich.table import Table as RichTable

    table, left_out = fitted(table, console.width)
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for column, wide in zip(table.columns, _widths(table, console.width), strict=True):
        title = _styled(Cell(text=column.title))
        shown.add_column(title, justify=column.align, overflow="fold", min_width=4, width=wide)
    for row in table.rows:
        shown.add_row(*map(_styled, row))
    if table.title:
        _print_line(console, f"\n{table.title}", "bold")
    console.print(shown)
    if left_out:
        names = ", ".join(left_out)
        _print_line(console, f"Not shown at this width: {names}. --json has every column.", "dim")
    if table.caption:
        _print_line(console, table.caption, "dim")


def _styled(cell: Cell) -> "RichText":
    from rich.text import Text as RichText

    first, *rest = escape(cell.text, "log").split("\n")
    text = RichText(first, f"{'bold ' * cell.bold}{STYLES[cell.tone]}".strip())
    for line in rest:
        text.append(f"\n{line}", "dim")
    return text


def fitted(table: Table, width: int) -> tuple[Table, list[str]]:
    """The table as it fits into `width` characters, and the titles of the columns left out."""
    if _natural_width(table) <= width:
        return table, []
    table = _stacked(table)
    left_out: list[str] = []
    while _natural_width(table) > width:
        last = max((i for i, one in enumerate(table.columns) if one.optional), default=None)
        if last is None:
            break
        left_out.insert(0, table.columns[last].title.replace("\n", ", "))
        table = Table(
            columns=[one for i, one in enumerate(table.columns) if i != last],
            rows=[[cell for i, cell in enumerate(row) if i != last] for row in table.rows],
            title=table.title,
            caption=table.caption,
        )
    return table, left_out


def _natural_width(table: Table) -> int:
    widths = [max(map(len, column)) for column in _lines(table)]
    return sum(widths) + _GAP * max(0, len(widths) - 1) + _EDGES


def _lines(table: Table) -> list[list[str]]:
    """Every line of each column, with its title's."""
    texts = [
        [column.title, *(row[index].text for row in table.rows)]
        for index, column in enumerate(table.columns)
    ]
    return [[line for text in column for line in text.split("\n")] for column in texts]


def _widths(table: Table, width: int) -> Sequence[int | None]:
    """Widths of the columns at which lines are broken only at spaces, and numbers never.

    None for each column where that does not fit: rich then breaks lines anywhere.
    """
    lines = _lines(table)
    wide = [max(map(len, column)) for column in lines]
    least = [
        max((len(word) for line in column for word in line.split()), default=1)
        if table.columns[index].align == "left"
        else wide[index]
        for index, column in enumerate(lines)
    ]
    room = width - _GAP * max(0, len(wide) - 1) - _EDGES
    if sum(least) > room:
        return [None] * len(wide)
    while sum(wide) > room:
        widest = max(range(len(wide)), key=lambda index: (wide[index] > least[index], wide[index]))
        wide[widest] -= 1
    return wide


def _stacked(table: Table) -> Table:
    """Every `stacked` column under the one before it, as a further line of its cells."""
    groups: list[list[int]] = []
    for index, column in enumerate(table.columns):
        if column.stacked and groups:
            groups[-1].append(index)
        else:
            groups.append([index])
    columns = [
        Column(
            title="\n".join(table.columns[i].title for i in group),
            align=table.columns[group[0]].align,
            optional=table.columns[group[0]].optional,
        )
        for group in groups
    ]
    rows = [[_joined([row[i] for i in group]) for group in groups] for row in table.rows]
    return Table(columns=columns, rows=rows, title=table.title, caption=table.caption)


def _joined(cells: Sequence[Cell]) -> Cell:
    text = "\n".join(cell.text for cell in cells)
    return Cell(text=text.rstrip("\n"), tone=cells[0].tone, bold=cells[0].bold)
