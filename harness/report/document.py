"""The document model: what a report contains, independent of where it is shown.

A command builds one `Document`; `terminal`, `markdown`, `html` and `export` render it. The answer
sentence comes first and long tables last, so that a reader who stops early has read what matters.
Texts are plain: each renderer escapes them for its own format.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tone = Literal["pass", "regression", "inconclusive", "failed", "neutral"]
"""What a text means; each renderer has its own colour or mark for it."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table. Lines after the first, parted by a line break, are subordinate."""

    text: str
    tone: Tone = "neutral"
    bold: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. In a terminal that is too narrow for the table, `stacked` columns go under the
    column before them, and then `optional` ones are left out and named below the table."""

    title: str
    align: Literal["left", "right"] = "left"
    stacked: bool = False
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells, as many a row as there are columns."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Paragraphs; a preformatted one keeps its line breaks and spaces."""

    paragraphs: Sequence[str]
    preformatted: bool = False


@dataclass(frozen=True, kw_only=True)
class Notes:
    """A list of sentences: warnings stand out, other notes stand back."""

    items: Sequence[str]
    title: str = ""
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure, drawn only by renderers that show pictures. `alt` describes what it shows."""

    draw: "Callable[[], Figure]"
    alt: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Blocks under a title. A folded one opens by a click, and the terminal shows it on request."""

    title: str
    blocks: "Sequence[Block]"
    folded: bool = False


Block: TypeAlias = Table | Text | Notes | Chart | Section


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report. `data` is what its JSON holds: msgspec structs, dataclasses or plain values."""

    title: str
    answer: str
    tone: Tone = "neutral"
    blocks: Sequence[Block] = field(default_factory=tuple)
    data: Any = None


def without_charts(blocks: Sequence[Block]) -> list[Block]:
    """The blocks for a format without pictures: no charts, and no sections of nothing else."""
    shown: list[Block] = []
    for block in blocks:
        if isinstance(block, Section):
            inner = without_charts(block.blocks)
            if inner:
                shown.append(replace(block, blocks=inner))
        elif not isinstance(block, Chart):
            shown.append(block)
    return shown


def table(
    columns: Sequence[Column | str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    title: str = "",
    caption: str = "",
) -> Table:
    """A `Table` from texts where nothing else is needed."""
    made = Table(
        columns=[one if isinstance(one, Column) else Column(title=one) for one in columns],
        rows=[[one if isinstance(one, Cell) else Cell(text=one) for one in row] for row in rows],
        title=title,
        caption=caption,
    )
    widths = {len(row) for row in made.rows}
    assert widths <= {len(made.columns)}, f"{len(made.columns)} columns, rows of {widths}"
    return made


def number(title: str, *, optional: bool = False, stacked: bool = False) -> Column:
    """A column of numbers."""
    return Column(title=title, align="right", optional=optional, stacked=stacked)


def present(*blocks: Block | None) -> list[Block]:
    """The blocks that have something to show: no empty table, list, text or section."""
    return [block for block in blocks if block is not None and not _is_empty(block)]


def _is_empty(block: Block) -> bool:
    if isinstance(block, Table):
        return not block.rows
    if isinstance(block, Text):
        return not block.paragraphs
    if isinstance(block, Notes):
        return not block.items
    return isinstance(block, Section) and not block.blocks
