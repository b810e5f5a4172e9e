"""`harness unpack`: merge a packed store into another."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.console import new_console, print_line
from harness.cli.options import STORE, JsonOption, StoreOption, open_store
from harness.report.export import print_json
from harness.results import archive


def command(
    source: Annotated[Path, typer.Argument(metavar="TAR", help="A tar that pack wrote.")],
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Merge a packed store into another; records that are there already are skipped."""
    target = open_store(store)
    summary = archive.unpack(source, target)
    if json:
        print_json(summary)
        return
    counts = {
        "new records": summary.records,
        "known records": summary.known,
        "studies": summary.studies,
        "run directories": summary.run_dirs,
        "full jobs": summary.jobs,
    }
    listed = ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
    print_line(new_console(), f"Merged {source} into {target.root} ({listed or 'nothing new'}).")
