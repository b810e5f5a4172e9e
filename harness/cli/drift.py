"""`harness drift`: since which night are runs of one configuration slower or worse?"""

from typing import Annotated

import typer

from harness.cli.console import new_console
from harness.cli.options import (
    STORE,
    MarginOption,
    MarkdownFileOption,
    StoreOption,
    metric_numbers,
    open_store,
)
from harness.report import drift


def command(
    store: StoreOption = STORE,
    margin: MarginOption = None,
    recent: Annotated[int, typer.Option(help="A step is an alarm for so many nights.")] = 14,
    markdown: MarkdownFileOption = None,
) -> None:
    """Since which night are runs of one configuration slower or worse?"""
    margins = metric_numbers(margin, "--margin")
    code = drift.drift(new_console(), open_store(store), margins, recent=recent, markdown=markdown)
    raise typer.Exit(code)
