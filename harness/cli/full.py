"""`harness full`: a full job, from preflight and forecast to its leaderboard entry."""

from pathlib import Path
from typing import Annotated

import typer

from harness import files
from harness.cli import options
from harness.cli.console import new_console, print_line, print_written, progress_console
from harness.config.field_types import LONGEST_MINUTES
from harness.config.full_file import load_full, with_overrides
from harness.config.yaml_schema import parse_sets
from harness.full.job import FinishedJob, FullOptions, run_full
from harness.report.export import print_json
from harness.results.store import Store


def command(
    file: Annotated[
        Path, typer.Argument(metavar="JOB", help="A job file, such as ablations/full/toy.yaml.")
    ],
    sets: options.SetOption = None,
    store: options.StoreOption = options.STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print requirements and forecast; use no GPU.")
    ] = False,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Only check the machine and run the step test.")
    ] = False,
    proxies: Annotated[
        bool, typer.Option("--proxies", help="Run the proxies that the forecast is based on.")
    ] = False,
    without_forecast: Annotated[
        bool, typer.Option("--without-forecast", help="Start even if no forecast is possible.")
    ] = False,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            callback=options.within(0, LONGEST_MINUTES),
            help="Stop with a checkpoint before this many minutes.",
        ),
    ] = None,
    price: options.PriceOption = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(help="Write everything behind the leaderboard entry to this tar file."),
    ] = None,
    json: options.JsonOption = False,
    noise_model: options.NoiseModelOption = options.NOISE_MODEL,
    baselines: options.BaselinesOption = options.BASELINES,
) -> None:
    """Run a full job: preflight, forecast, launch, monitoring, leaderboard entry.

    Re-run the same command to resume after an interruption or a limit.
    """
    from harness.report.full.progress import FullProgress

    job = with_overrides(load_full(file), sets=parse_sets(sets or []), price=price)
    chosen = FullOptions(
        noise_model=noise_model,
        baselines=baselines,
        dry_run=dry_run,
        preflight_only=preflight,
        proxies=proxies,
        without_forecast=without_forecast,
        max_minutes=max_minutes,
        artifacts=artifacts,
    )
    console, results = new_console(stderr=json), options.open_store(store)
    progress = FullProgress(console, progress_console(), job.full)
    result = run_full(job, file, results, chosen, progress)
    if result.finished is not None and not dry_run:
        print_written(console, write_report(results, job.full, result.finished))
    if result.reason:
        print_line(console, result.reason)
    if json:
        print_json(result.data)
    raise typer.Exit(result.exit_code)


def write_report(store: Store, name: str, finished: FinishedJob) -> dict[str, Path]:
    """Writes the HTML report of a finished job."""
    from harness.report.full.content import job_document
    from harness.report.html import as_html

    path = store.report_dir("full", name) / "report.html"
    files.write_text(path, as_html(job_document(name, finished.forecast, finished)))
    return {"html": path}
