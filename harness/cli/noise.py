"""`harness noise`: the noise model, and which rows the user's own records lack."""

from pathlib import Path
from typing import Annotated

import typer

from harness import files
from harness.cli import options
from harness.cli.console import new_console, print_line, print_result
from harness.gate.noise_sources import derived_rows, load_noise_model


def command(
    store: options.StoreOption = options.STORE,
    noise_model: options.NoiseModelOption = options.NOISE_MODEL,
    write: Annotated[
        Path | None, typer.Option(help="Write the rows of your own records as a noise model file.")
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """The noise model: how much equal runs differ, and which rows are missing."""
    from harness.comparison.noise_model import as_csv, missing_rows
    from harness.report.noise import build_noise

    opened = options.open_store(store)
    measured, model = derived_rows(opened), load_noise_model(noise_model, opened)
    print_result(
        build_noise(model, measured, missing_rows(opened.records()), str(store)), json=json
    )
    if write is not None:
        files.write_text(write, as_csv(measured))
        print_line(new_console(stderr=json), f"{len(measured)} measured rows: {write}")
