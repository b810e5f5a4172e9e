"""`harness report`: the report of a stored study."""

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from harness import errors
from harness.cli.console import new_console, print_written
from harness.cli.options import STORE, StoreOption, open_store
from harness.results.store import Store


def command(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="The name of a stored study.")],
    store: StoreOption = STORE,
    out: Annotated[Optional[Path], typer.Option(help="The HTML file.")] = None,  # noqa: UP045
    json: Annotated[Optional[Path], typer.Option(help="The JSON file.")] = None,  # noqa: UP045
    csv: Annotated[Optional[Path], typer.Option(help="The CSV file.")] = None,  # noqa: UP045
    no_html: Annotated[bool, typer.Option("--no-html", help="Leave the HTML out.")] = False,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A PNG of the attribution bars."),
    ] = None,
) -> None:
    """What a stored study says: table, HTML, JSON, CSV, picture."""
    code = report(
        new_console(),
        open_store(store),
        name,
        out=out,
        json=json,
        csv=csv,
        no_html=no_html,
        picture=picture,
    )
    raise typer.Exit(code)


def report(
    console: Console,
    store: Store,
    name: str,
    *,
    out: Path | None,
    json: Path | None,
    csv: Path | None,
    no_html: bool,
    picture: Path | None,
) -> int:
    """Prints the report of a stored study and writes its files."""
    from harness.report import study as reports

    reports.print_table(console, store, name)
    written = reports.write_all(store, name, html=out, json=json, csv=csv, skip_html=no_html)
    if picture is not None:
        written = {**written, "picture": reports.write_picture(store, name, picture)}
    print_written(console, written)
    return errors.PASS
