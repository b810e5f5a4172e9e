"""`harness noise`: the noise model, and which rows the user's own records lack."""

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from harness import errors
from harness.cli.console import new_console, print_line
from harness.cli.options import (
    NOISE_MODEL,
    STORE,
    JsonOption,
    NoiseModelOption,
    StoreOption,
    open_store,
)
from harness.gate.noise_sources import derived_rows, load_noise_model
from harness.results.store import Store


def command(
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    write: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the rows of your own records as a noise model file."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """The noise model: how much equal runs differ, and which rows are missing."""
    raise typer.Exit(noise(new_console(), noise_model, open_store(store), write=write, json=json))


def noise(
    console: Console, file: Path, store: Store, *, write: Path | None, json: bool = False
) -> int:
    """Prints the noise model; `write` stores the measured rows as a file."""
    from harness import files
    from harness.comparison.noise_model import as_csv, missing_rows
    from harness.report.export import document_json
    from harness.report.noise import build_noise
    from harness.report.terminal import print_document

    measured = derived_rows(store)
    model = load_noise_model(file, store)
    document = build_noise(model, measured, missing_rows(store.records()), str(store.root))
    if json:
        console.file.write(document_json(document))
    else:
        print_document(console, document)
    if write is not None:
        files.write_text(write, as_csv(measured))
        print_line(new_console(stderr=json), f"{len(measured)} measured rows: {write}")
    return errors.PASS
