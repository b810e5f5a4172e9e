"""`harness pack`: a store as one tar."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness import errors
from harness.cli.console import new_console, print_line
from harness.cli.options import STORE, StoreOption, open_store
from harness.results import archive
from harness.results.store import Store


def command(
    out: Annotated[Path, typer.Argument(help="The tar to write.")],
    store: StoreOption = STORE,
    compact: Annotated[
        bool, typer.Option("--compact", help="To publish: no run directories, no paths.")
    ] = False,
) -> None:
    """A store as one tar."""
    raise typer.Exit(pack(new_console(), open_store(store), out, compact=compact))


def pack(console: Console, store: Store, out: Path, *, compact: bool) -> int:
    """A store as one tar."""
    files = archive.pack(store, out, compact=compact)
    print_line(console, f"{out}: {files} files, {out.stat().st_size / 1e6:.1f} MB")
    return errors.PASS
