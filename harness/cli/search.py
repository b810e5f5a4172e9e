"""`harness search`: the best settings of a configuration."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.console import new_console
from harness.cli.options import (
    STORE,
    MaxMinutesOption,
    PriceOption,
    SetOption,
    StoreOption,
    gpu_list,
    open_store,
)
from harness.config.search_file import load_search
from harness.config.yaml_schema import parse_sets
from harness.search import engine


def command(
    file: Annotated[
        Path, typer.Argument(help="A search file, such as ablations/searches/fake.yaml.")
    ],
    sets: SetOption = None,
    store: StoreOption = STORE,
    storage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="URL of Optuna's storage; a SQLite file in the store without it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only the space, the budget and the second look.")
    ] = False,
    max_minutes: MaxMinutesOption = None,
    gpus: Annotated[str, typer.Option(help="Such as 0-7: one trial at a time on each.")] = "",
    worker: Annotated[
        bool, typer.Option("--worker", help="Only trials, beside another command's.")
    ] = False,
    wait_for_base: Annotated[
        float, typer.Option(help="So many minutes a worker waits for the other's base.")
    ] = 0.0,
    since: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(hidden=True, help="Unix time; a base that failed before it may yet be made."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Only what is found so far; starts no run.")
    ] = False,
    price: PriceOption = None,
    no_html: Annotated[bool, typer.Option("--no-html", help="A report without the HTML.")] = False,
) -> None:
    """The best settings: Optuna proposes, held-out seeds decide. Goes on where it was stopped."""
    request = engine.changed(load_search(file), sets=parse_sets(sets or []), price=price)
    if dry_run:
        raise typer.Exit(engine.dry_run(new_console(), request, file, open_store(store)))
    options = engine.SearchOptions(
        max_minutes=max_minutes,
        gpus=gpu_list(gpus),
        storage=storage,
        worker=worker,
        patience_minutes=wait_for_base,
        since=since,
        report_only=report,
        html=not no_html,
    )
    raise typer.Exit(engine.search(new_console(), request, file, open_store(store), options))
