"""`harness search`: the best settings of a configuration."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from harness import errors
from harness.cli.console import new_console, print_line, print_written, progress_console
from harness.cli.options import (
    STORE,
    DryRunOption,
    GpusOption,
    JsonOption,
    MaxMinutesOption,
    NoHtmlOption,
    PriceOption,
    SetOption,
    StoreOption,
    gpu_list,
    open_store,
)
from harness.redact import redact_argv

if TYPE_CHECKING:
    from harness.config.search_file import SearchFile
    from harness.results.store import Store
    from harness.search.engine import SearchOptions, SearchOutcome


def command(
    file: Annotated[
        Path, typer.Argument(help="A search file, such as ablations/searches/fake.yaml.")
    ],
    sets: SetOption = None,
    store: StoreOption = STORE,
    storage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="URL of Optuna's storage. [default: a SQLite file in the store]"),
    ] = None,
    dry_run: DryRunOption = False,
    max_minutes: MaxMinutesOption = None,
    gpus: GpusOption = "",
    worker: Annotated[
        bool, typer.Option("--worker", help="Only run trials, for a search that another runs.")
    ] = False,
    wait_for_base: Annotated[
        float, typer.Option(min=0, help="Minutes that a worker waits for the other command's base.")
    ] = 0.0,
    since: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(hidden=True, help="Unix time; earlier failures of the base are ignored."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Only report the result so far; start no run.")
    ] = False,
    price: PriceOption = None,
    json: JsonOption = False,
    no_html: NoHtmlOption = False,
) -> None:
    """Search for the best settings with Optuna, and confirm them on held-out seeds.

    A search that was stopped is resumed by the same command.
    """
    from harness.config.search_file import load_search
    from harness.config.yaml_schema import parse_sets
    from harness.search.engine import SearchOptions, with_overrides

    search = with_overrides(load_search(file), sets=parse_sets(sets or []), price=price)
    options = SearchOptions(
        max_minutes=max_minutes,
        gpus=gpu_list(gpus),
        storage=storage,
        worker=worker,
        wait_for_base_minutes=wait_for_base,
        since=since,
        command_line=" ".join(["harness", *redact_argv(sys.argv[1:])]),
    )
    opened = open_store(store)
    if dry_run:
        raise typer.Exit(_dry_run(search, file, opened, options, json=json))
    outcome = _run(search, file, opened, options, report_only=report)
    _report(outcome, opened, json=json, html=not no_html)
    raise typer.Exit(outcome.exit_code)


def _run(
    search: "SearchFile",
    path: Path,
    store: "Store",
    options: "SearchOptions",
    *,
    report_only: bool,
) -> "SearchOutcome":
    from harness.report.search.progress import SearchProgress
    from harness.search.engine import read_search, run_search

    listener = SearchProgress(progress_console())
    if report_only:
        return read_search(search, path, store, options.storage, listener)
    return run_search(search, path, store, options, listener)


def _report(outcome: "SearchOutcome", store: "Store", *, json: bool, html: bool) -> None:
    """Prints the result, or its JSON, and writes its files."""
    from harness.report.export import print_json
    from harness.report.search.document import search_document
    from harness.report.search.files import write_report
    from harness.report.terminal import print_document

    console = progress_console() if json else new_console()
    answer = ""
    if outcome.result is not None:
        document = search_document(outcome.result)
        answer = document.answer
        written, notes = write_report(outcome, outcome.result, document, store, html=html)
        if not json:
            print_document(console, document)
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
    search: "SearchFile", path: Path, store: "Store", options: "SearchOptions", *, json: bool
) -> int:
    """Shows the space, the budget, time and power; starts nothing."""
    from harness.report.export import print_json
    from harness.report.search.document import plan_document
    from harness.report.terminal import print_document
    from harness.runner.trainer import by_name
    from harness.search.engine import blockers
    from harness.search.plan import resolve

    plan = resolve(search, path, by_name(search.trainer), prepares=False)
    blocked = blockers(plan, store, options)
    document = plan_document(plan, store.records(), blocked)
    if json:
        print_json(document.data)
    else:
        print_document(new_console(), document)
    return errors.COULD_NOT_RUN if blocked else errors.PASS
