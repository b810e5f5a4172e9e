"""Renders a document as GitHub-flavoured Markdown, for pull requests, READMEs and notebooks."""

import re
from collections.abc import Sequence

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
_SPECIAL = re.compile(r"(\\|\*|<|\||(?<=\])\()")


def as_markdown(document: Document) -> str:
    """The whole document; folded sections become `<details>`."""
    lines = [f"### {MARKS[document.tone]}{escape(document.answer)}", ""]
    return "\n".join([*lines, *_blocks(without_charts(document.blocks))]).rstrip("\n") + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line; code between backticks stays code."""
    return _SPECIAL.sub(r"\\\1", text).replace("\n", " ")


def _blocks(blocks: Sequence[Block]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Table):
            lines += _table(block)
        elif isinstance(block, Notes):
            lines += [f"**{escape(block.title)}**", ""] if block.title else []
            lines += [*(f"- {escape(item)}" for item in block.items), ""]
        elif isinstance(block, Section):
            lines += _section(block)
        elif isinstance(block, Chart):
            continue
        elif block.preformatted:
            lines += ["```", *(text.replace("```", "'''") for text in block.paragraphs), "```", ""]
        else:
            lines += [line for text in block.paragraphs for line in (escape(text), "")]
    return lines


def _section(section: Section) -> list[str]:
    inner = _blocks(section.blocks)
    if section.folded:
        title = f"<summary>{escape(section.title)}</summary>"
        return [f"<details>{title}", "", *inner, "</details>", ""]
    return [f"#### {escape(section.title)}", "", *inner]


def _table(table: Table) -> list[str]:
    rule = ["---:" if column.align == "right" else "---" for column in table.columns]
    lines = [f"**{escape(table.title)}**", ""] if table.title else []
    lines += [_row([escape(column.title) for column in table.columns]), _row(rule)]
    lines += [_row([_cell(cell) for cell in row]) for row in table.rows]
    return [*lines, "", *([escape(table.caption), ""] if table.caption else [])]


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}**" if text and (cell.bold or cell.tone == "regression") else text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
