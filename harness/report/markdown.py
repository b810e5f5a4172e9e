"""Renders a document as GitHub-flavoured Markdown, for pull requests, READMEs and notebooks."""

from collections.abc import Sequence

from harness.escape import escape
from harness.report.document import (
    Block,
    Cell,
    Chart,
    Document,
    Notes,
    Section,
    Table,
    Tone,
    without_charts,
)

MARKS: dict[Tone, str] = {
    "pass": "✅ pass: ",
    "regression": "❌ regression: ",
    "inconclusive": "❔ inconclusive: ",
    "failed": "⛔ ",
    "neutral": "",
}


def as_markdown(document: Document) -> str:
    """The whole document; folded sections become `<details>`."""
    lines = [f"### {MARKS[document.tone]}{_text(document.answer)}", ""]
    return "\n".join([*lines, *_blocks(without_charts(document.blocks))]).rstrip("\n") + "\n"


def _blocks(blocks: Sequence[Block]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Table):
            lines += _table(block)
        elif isinstance(block, Notes):
            lines += [f"**{_text(block.title)}**", ""] if block.title else []
            lines += [*(f"- {_text(item)}" for item in block.items), ""]
        elif isinstance(block, Section):
            lines += _section(block)
        elif isinstance(block, Chart):
            continue
        elif block.preformatted:
            lines += ["```", *map(_fenced, block.paragraphs), "```", ""]
        else:
            lines += [line for text in block.paragraphs for line in (_text(text), "")]
    return lines


def _text(text: str) -> str:
    return escape(text, "markdown")


def _fenced(text: str) -> str:
    """Lines that cannot end the fence around them."""
    return escape(text, "log").replace("```", "'''")


def _section(section: Section) -> list[str]:
    inner = _blocks(section.blocks)
    if section.folded:
        title = f"<summary>{escape(section.title, 'html')}</summary>"
        return [f"<details>{title}", "", *inner, "</details>", ""]
    return [f"#### {_text(section.title)}", "", *inner]


def _table(table: Table) -> list[str]:
    rule = ["---:" if column.align == "right" else "---" for column in table.columns]
    lines = [f"**{_text(table.title)}**", ""] if table.title else []
    lines += [_row([_text(column.title) for column in table.columns]), _row(rule)]
    lines += [_row([_cell(cell) for cell in row]) for row in table.rows]
    return [*lines, "", *([_text(table.caption), ""] if table.caption else [])]


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    return f"**{text}**" if text and (cell.bold or cell.tone == "regression") else text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
