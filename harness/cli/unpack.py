"""`harness unpack`: merge a packed store into another."""

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
    source: Annotated[Path, typer.Argument(metavar="TAR", help="A tar that pack wrote.")],
    store: StoreOption = STORE,
) -> None:
    """Merges a packed store into another."""
    raise typer.Exit(unpack(new_console(), source, open_store(store)))


def unpack(console: Console, source: Path, store: Store) -> int:
    """A tar merged into a store."""
    found = archive.unpack(source, store)
    print_line(
        console,
        f"{store.root}: {found.records} records are new, {found.known} were known; "
        f"{found.studies} studies, {found.run_dirs} run directories"
        + (f", {found.jobs} full jobs" if found.jobs else ""),
    )
    return errors.PASS
