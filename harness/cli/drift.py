"""`harness drift`: since which session are runs of one configuration slower or worse?"""

from typing import Annotated

import typer

from harness import files
from harness.cli.console import new_console
from harness.cli.options import (
    STORE,
    JsonOption,
    MarginOption,
    MarkdownFileOption,
    StoreOption,
    metric_numbers,
    open_store,
)
from harness.comparison.drift import RECENT_SESSIONS, watch
from harness.errors import UsageError
from harness.metrics import COMPARED


def command(
    store: StoreOption = STORE,
    margin: MarginOption = None,
    recent: Annotated[
        int, typer.Option(min=1, help="A step is an alarm for this many sessions.")
    ] = RECENT_SESSIONS,
    markdown: MarkdownFileOption = None,
    json: JsonOption = False,
) -> None:
    """Since which session are runs of one configuration slower or worse?"""
    from harness.report.drift import build_drift, exit_code
    from harness.report.export import document_json
    from harness.report.markdown import as_markdown
    from harness.report.terminal import print_document

    margins = metric_numbers(margin, "--margin")
    if unknown := sorted(set(margins) - set(COMPARED)):
        raise UsageError(
            "--margin", "one of " + ", ".join(COMPARED), unknown[0], "Name a metric of the records."
        )
    series = watch(open_store(store).records(), margins)
    document = build_drift(series, recent)
    console = new_console()
    if json:
        console.file.write(document_json(document))
    else:
        print_document(console, document)
    if markdown is not None:
        files.write_text(markdown, as_markdown(document))
    raise typer.Exit(exit_code(series, recent))
