"""`harness full`: a full job, from preflight to the leaderboard entry."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.console import new_console
from harness.cli.options import (
    BASELINES,
    NOISE_MODEL,
    STORE,
    BaselinesOption,
    JsonOption,
    NoiseModelOption,
    PriceOption,
    SetOption,
    StoreOption,
    open_store,
)
from harness.config.full_file import changed, load_full
from harness.config.yaml_schema import parse_sets
from harness.full import job


def command(
    file: Annotated[Path, typer.Argument(metavar="JOB", help="Such as ablations/full/toy.yaml.")],
    sets: SetOption = None,
    store: StoreOption = STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only needs and forecast; no GPU is taken.")
    ] = False,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Only what is looked at before a start.")
    ] = False,
    proxies: Annotated[
        bool, typer.Option("--proxies", help="Make the runs that the forecast rests on.")
    ] = False,
    without_forecast: Annotated[
        bool, typer.Option("--without-forecast", help="Start although none can be made.")
    ] = False,
    max_minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Stop in time, with a checkpoint; the same command goes on."),
    ] = None,
    price: PriceOption = None,
    evidence: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The tar to write with all that supports the row."),
    ] = None,
    json: JsonOption = False,
    noise_model: NoiseModelOption = NOISE_MODEL,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """The full job: preflight, forecast, launch, watch, the row. Goes on where it was stopped."""
    request = changed(load_full(file), sets=parse_sets(sets or []), price=price)
    options = job.FullOptions(
        noise_model=noise_model,
        baselines=baselines,
        dry_run=dry_run,
        preflight_only=preflight,
        proxies=proxies,
        without_forecast=without_forecast,
        max_minutes=max_minutes,
        evidence=evidence,
        json=json,
    )
    console = new_console(stderr=json)
    raise typer.Exit(job.full(console, request, file, open_store(store), options))
