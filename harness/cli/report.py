"""`harness report`: the report of a stored study."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.console import new_console, print_written, progress_console
from harness.cli.options import (
    STORE,
    JsonOption,
    MarkdownOption,
    NoHtmlOption,
    StoreOption,
    open_store,
)
from harness.errors import UsageError


def command(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="The name of a stored study.")],
    store: StoreOption = STORE,
    json: JsonOption = False,
    markdown: MarkdownOption = False,
    details: Annotated[
        bool, typer.Option("--details", help="Print every run, environment and configuration.")
    ] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads it at run time)
        typer.Option("--out", help="HTML file to write, instead of the one in the store."),
    ] = None,
    json_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json-file", help="JSON file to write, instead of the one in the store."),
    ] = None,
    csv: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--csv", help="CSV file to write, instead of the one in the store."),
    ] = None,
    no_html: NoHtmlOption = False,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--picture", help="PNG file to write, with the bars of the attribution."),
    ] = None,
) -> None:
    """Report a stored study: table, HTML, JSON, CSV, picture.

    Every number is computed from the records now. The files go to reports/study/STUDY of the store.
    """
    if json and markdown:
        raise UsageError("--json", "one format", "--markdown too", "Pass one of them.")
    from harness.report import study as reports
    from harness.report.export import print_document_json
    from harness.report.markdown import as_markdown
    from harness.report.terminal import print_document

    content = reports.load(open_store(store), name)
    document = reports.build(content)
    if json:
        print_document_json(document)
    elif markdown:
        sys.stdout.write(as_markdown(document))
    else:
        print_document(new_console(), document, details=details)
    written = reports.write_files(
        content, document, html=out, json=json_file, csv=csv, skip_html=no_html
    )
    if picture is not None:
        written["picture"] = reports.write_picture(content, picture)
    print_written(progress_console() if json or markdown else new_console(), written)
