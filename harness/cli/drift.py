"""`harness drift`: since which session are runs of one configuration slower or worse?"""

from typing import Annotated

import typer

from harness import files
from harness.cli import options
from harness.cli.console import print_result
from harness.comparison.drift import RECENT_SESSIONS, watch
from harness.errors import UsageError
from harness.metrics import COMPARED


def command(
    store: options.StoreOption = options.STORE,
    margin: options.MarginOption = None,
    recent: Annotated[
        int,
        typer.Option(
            callback=options.within(1, 1_000_000),
            help="A step is an alarm for this many sessions.",
        ),
    ] = RECENT_SESSIONS,
    markdown: options.MarkdownFileOption = None,
    json: options.JsonOption = False,
) -> None:
    """Since which session are runs of one configuration slower or worse?"""
    from harness.report.drift import build_drift, exit_code
    from harness.report.markdown import as_markdown

    margins = options.metric_numbers(margin, "--margin")
    if unknown := sorted(set(margins) - set(COMPARED)):
        raise UsageError(
            "--margin", "one of " + ", ".join(COMPARED), unknown[0], "Name a metric of the records."
        )
    series = watch(options.open_store(store).records(), margins)
    document = build_drift(series, recent)
    print_result(document, json=json)
    if markdown is not None:
        files.write_text(markdown, as_markdown(document))
    raise typer.Exit(exit_code(series, recent))
