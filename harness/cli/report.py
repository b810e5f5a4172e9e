"""`harness report`: the report of a stored study."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.cli.console import (
    new_console,
    print_line,
    print_result,
    print_written,
    progress_console,
)
from harness.errors import DiskError, UsageError


def command(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="The name of a stored study.")],
    store: options.StoreOption = options.STORE,
    json: options.JsonOption = False,
    markdown: options.MarkdownOption = False,
    details: Annotated[
        bool, typer.Option("--details", help="Print every run, environment and configuration.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="HTML file to write, instead of the one in the store."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json-file", help="JSON file to write, instead of the one in the store."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="CSV file to write, instead of the one in the store."),
    ] = None,
    no_html: options.NoHtmlOption = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="PNG file to write, with the bars of the attribution."),
    ] = None,
) -> None:
    """Report a stored study: table, HTML, JSON, CSV, picture.

    Every number is computed from the records now. The files go to reports/study/STUDY of the store.
    """
    if json and markdown:
        raise UsageError("--json", "one format", "--markdown too", "Pass one of them.")
    from harness.report.markdown import as_markdown
    from harness.report.study import files
    from harness.report.study.content import load
    from harness.report.study.document import build

    _check_distinct({"--out": out, "--json-file": json_file, "--csv": csv, "--picture": picture})
    content = load(options.open_store(store), name)
    document = build(content)
    if markdown:
        new_console().file.write(as_markdown(document))
    else:
        print_result(document, json=json, details=details)
    try:
        written = files.write_files(
            content, document, html=out, json=json_file, csv=csv, skip_html=no_html
        )
    except DiskError as error:
        if out or json_file or csv:
            raise
        print_line(new_console(stderr=True), f"No files were written: {error}")
        written = {}
    if picture is not None:
        written["picture"] = files.write_picture(content, picture)
    print_written(progress_console() if json or markdown else new_console(), written)


def _check_distinct(paths: Mapping[str, Path | None]) -> None:
    """Raises UsageError for two options that name one file: the later one would replace it."""
    named: dict[str, str] = {}
    for option, path in paths.items():
        if (
            path is not None
            and (first := named.setdefault(os.path.realpath(path), option)) != option
        ):
            hint = "Name another file for one of them."
            raise UsageError(option, "a file of its own", f"{path}, as for {first}", hint)
