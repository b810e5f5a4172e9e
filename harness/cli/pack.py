"""`harness pack`: write a store to one tar."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.console import new_console, print_line
from harness.cli.options import STORE, JsonOption, StoreOption, open_store
from harness.format import plural
from harness.report.export import print_json
from harness.results import archive


def command(
    out: Annotated[Path, typer.Argument(help="The tar to write.")],
    store: StoreOption = STORE,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="For publication: leave out run directories and paths."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write a store to one tar, to move it to another machine or publish it."""
    count = archive.pack(open_store(store), out, compact=compact)
    size = out.stat().st_size
    if json:
        print_json({"path": str(out), "files": count, "bytes": size})
    else:
        print_line(
            new_console(), f"Packed {plural(count, 'file')} ({size / 1e6:.1f} MB) into {out}."
        )
