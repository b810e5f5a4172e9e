"""`harness search`: the best settings of a configuration."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness import errors
from harness.cli import options
from harness.cli.console import (
    new_console,
    print_line,
    print_result,
    print_written,
    progress_console,
)
from harness.config.field_types import LARGEST, LONGEST_MINUTES
from harness.redact import redact_argv

if TYPE_CHECKING:
    from harness.config.search_file import SearchFile
    from harness.results.store import Store
    from harness.search.engine import SearchOptions, SearchOutcome


def command(
    file: Annotated[
        Path, typer.Argument(help="A search file, such as ablations/searches/fake.yaml.")
    ],
    sets: options.SetOption = None,
    store: options.StoreOption = options.STORE,
    storage: Annotated[
        str | None,
        typer.Option(help="URL of Optuna's storage. [default: a SQLite file in the store]"),
    ] = None,
    dry_run: options.DryRunOption = False,
    max_minutes: options.MaxMinutesOption = None,
    gpus: options.GpusOption = "",
    worker: Annotated[
        bool, typer.Option("--worker", help="Only run trials, for a search that another runs.")
    ] = False,
    wait_for_base: Annotated[
        float,
        typer.Option(
            callback=options.within(0, LONGEST_MINUTES),
            help="Minutes that a worker waits for the other command's base.",
        ),
    ] = 0.0,
    since: Annotated[
        float | None,
        typer.Option(
            callback=options.within(0, LARGEST),
            hidden=True,
            help="Unix time; earlier failures of the base are ignored.",
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Only report the result so far; start no run.")
    ] = False,
    price: options.PriceOption = None,
    json: options.JsonOption = False,
    no_html: options.NoHtmlOption = False,
) -> None:
    """Search for the best settings with Optuna, and confirm them on held-out seeds.

    A search that was stopped is resumed by the same command.
    """
    from harness.config.search_file import load_search
    from harness.config.yaml_schema import parse_sets
    from harness.report.search.progress import SearchProgress
    from harness.search.engine import SearchOptions, read_search, run_search, with_overrides

    search = with_overrides(load_search(file), sets=parse_sets(sets or []), price=price)
    chosen = SearchOptions(
        max_minutes=max_minutes,
        gpus=options.gpu_list(gpus),
        storage=storage,
        worker=worker,
        wait_for_base_minutes=wait_for_base,
        since=since,
        command_line=" ".join(["harness", *redact_argv(sys.argv[1:])]),
    )
    opened, listener = options.open_store(store), SearchProgress(progress_console())
    if dry_run:
        raise typer.Exit(_dry_run(search, file, opened, chosen, json=json))
    if report:
        outcome = read_search(search, file, opened, storage, listener)
    else:
        outcome = run_search(search, file, opened, chosen, listener)
    _report(outcome, opened, json=json, html=not no_html, must_write=not report)
    raise typer.Exit(outcome.exit_code)


def _report(
    outcome: "SearchOutcome", store: "Store", *, json: bool, html: bool, must_write: bool
) -> None:
    """Prints the result, or its JSON, and writes its files: if it can, unless `must_write`."""
    from harness.report.export import print_json
    from harness.report.search.document import search_document
    from harness.report.search.files import write_report

    console = progress_console() if json else new_console()
    answer = ""
    if outcome.result is not None:
        document = search_document(outcome.result)
        answer = document.answer
        try:
            written, notes = write_report(outcome, outcome.result, document, store, html=html)
        except errors.DiskError as error:
            if must_write:
                raise
            print_line(new_console(stderr=True), f"No files were written: {error}")
            written, notes = {}, []
        if not json:
            print_result(document, json=False)
        for note in notes:
            print_line(console, note)
        print_written(console, written)
    if outcome.reason:
        print_line(console, outcome.reason)
    if json:
        print_json(
            {
                "answer": answer,
                "exit_code": outcome.exit_code,
                "reason": outcome.reason,
                "result": outcome.result,
            }
        )


def _dry_run(
    search: "SearchFile", path: Path, store: "Store", chosen: "SearchOptions", *, json: bool
) -> int:
    """Shows the space, the budget, time and power; starts nothing."""
    from harness.report.search.document import plan_document
    from harness.runner.trainer import by_name
    from harness.search.engine import blockers
    from harness.search.plan import resolve

    plan = resolve(search, path, by_name(search.trainer), prepares=False)
    blocked = blockers(plan, store, chosen)
    print_result(plan_document(plan, store.records(), blocked), json=json)
    return errors.COULD_NOT_RUN if blocked else errors.PASS
