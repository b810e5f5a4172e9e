"""The words of the command line: its commands, their options, their help.

Only reads words; commands.py does the work, and is imported when a command runs, so that
`harness --help` is instant.
"""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from harness.cli.gate import baseline_app, gate
from harness.cli.github import cli as ci_cli
from harness.cli.options import (
    BASELINES,
    NOISE_MODEL,
    STORE,
    AlphaOption,
    BaselinesOption,
    JsonOption,
    MarginOption,
    MaxMinutesOption,
    NoiseModelOption,
    PriceOption,
    SetOption,
    StoreOption,
    new_console,
    open_store,
)
from harness.cli.slurm import cli as cluster_cli

app = typer.Typer(
    name="harness",
    help="Says what each trick of a GPT-2 speedrun trainer is worth, with interval and price.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ci_cli.app, name="ci")
app.add_typer(baseline_app, name="baseline")
BETWEEN = "\0--"  # no file can be called so


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A configuration file.")],
    sets: SetOption = None,
    seed: Annotated[int, typer.Option(help="The seed of the run.")] = 1,
    store: StoreOption = STORE,
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
    timeout_minutes: Annotated[float, typer.Option(help="End it after this long.")] = 60.0,
    retry: Annotated[bool, typer.Option("--rerun", help="Even if it is recorded.")] = False,
) -> None:
    """One run of one configuration."""
    from harness.cli import run as command
    from harness.config.yaml_schema import parse_sets
    from harness.runner.trainer import by_name

    code = command.run(
        new_console(),
        config,
        open_store(store),
        trainer=by_name(trainer),
        sets=parse_sets(sets or []),
        seed=seed,
        timeout_minutes=timeout_minutes,
        retry=retry,
    )
    raise typer.Exit(code)


@app.command()
def study(
    file: Annotated[
        Path, typer.Argument(help="A study file, such as ablations/studies/smoke.yaml.")
    ],
    sets: SetOption = None,
    seeds: Annotated[str, typer.Option(help="Such as 1,2,5-7; in place of the file's.")] = "",
    name: Annotated[str, typer.Option(help="Another name for the study.")] = "",
    store: StoreOption = STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only runs, time, cost, smallest detectable effect.")
    ] = False,
    max_minutes: MaxMinutesOption = None,
    gpus: Annotated[str, typer.Option(help="Such as 0-7: one run at a time on each.")] = "",
    split_blocks: Annotated[
        bool,
        typer.Option("--allow-partial-blocks", help="Begin blocks that cannot finish in time."),
    ] = False,
    price: PriceOption = None,
    retry: Annotated[
        bool, typer.Option("--rerun", help="Make diverged and out-of-memory runs again.")
    ] = False,
    no_html: Annotated[bool, typer.Option("--no-html", help="A report without the HTML.")] = False,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="A dry run that starts no trainer at all.")
    ] = False,
) -> None:
    """A study: every arm at every seed, and the report. Goes on where it was stopped."""
    from harness.cli import study as commands
    from harness.config.yaml_schema import parse_seeds, parse_sets
    from harness.study.executor import StudyOptions

    changed = commands.changed(
        commands.load(file),
        name=name or None,
        seeds=parse_seeds(seeds) if seeds else None,
        sets=parse_sets(sets or []),
        price=price,
    )
    options = StudyOptions(
        retry=retry,
        max_minutes=max_minutes,
        split_blocks=split_blocks,
        gpus=[str(number) for number in parse_seeds(gpus)] if gpus else [],
    )
    if dry_run:
        code = commands.dry_run(
            new_console(), changed, file, open_store(store), options, measure=not no_measure
        )
    else:
        code = commands.study(
            new_console(), changed, file, open_store(store), options, html=not no_html
        )
    raise typer.Exit(code)


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="The name of a stored study.")],
    store: StoreOption = STORE,
    out: Annotated[Optional[Path], typer.Option(help="The HTML file.")] = None,  # noqa: UP045
    json: Annotated[Optional[Path], typer.Option(help="The JSON file.")] = None,  # noqa: UP045
    csv: Annotated[Optional[Path], typer.Option(help="The CSV file.")] = None,  # noqa: UP045
    no_html: Annotated[bool, typer.Option("--no-html", help="Leave the HTML out.")] = False,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A PNG of the attribution bars."),
    ] = None,
) -> None:
    """What a stored study says: table, HTML, JSON, CSV, picture."""
    from harness.cli import study as commands

    code = commands.report(
        new_console(),
        open_store(store),
        name,
        out=out,
        json=json,
        csv=csv,
        no_html=no_html,
        picture=picture,
    )
    raise typer.Exit(code)


@app.command()
def search(
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
    from harness.config.search_file import load_search
    from harness.config.yaml_schema import parse_seeds, parse_sets
    from harness.search import engine

    asked = engine.changed(load_search(file), sets=parse_sets(sets or []), price=price)
    if dry_run:
        raise typer.Exit(engine.dry_run(new_console(), asked, file, open_store(store)))
    options = engine.SearchOptions(
        max_minutes=max_minutes,
        gpus=[str(number) for number in parse_seeds(gpus)] if gpus else [],
        storage=storage,
        worker=worker,
        patience_minutes=wait_for_base,
        since=since,
        report_only=report,
        html=not no_html,
    )
    raise typer.Exit(engine.search(new_console(), asked, file, open_store(store), options))


@app.command()
def full(
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
    from rich.console import Console

    from harness.config.full_file import changed, load_full
    from harness.config.yaml_schema import parse_sets
    from harness.full import job

    asked = changed(load_full(file), sets=parse_sets(sets or []), price=price)
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
    console = Console(stderr=True) if json else new_console()
    raise typer.Exit(job.full(console, asked, file, open_store(store), options))


class _Sides(TyperCommand):
    """Keeps the `--` between the sides as a word: elsewhere it only ends the options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [BETWEEN if word == "--" else word for word in args])


@app.command(cls=_Sides)
def compare(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="A... -- B...",
            help="Logs, folders of logs, run directories, records, stores, STORE:STUDY/ARM.",
        ),
    ],
    margin: MarginOption = None,
    metric: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only this metric. May be repeated."),
    ] = None,
    regex: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=PATTERN: reads a number from any log, the last match counts."),
    ] = None,
    higher_better: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A metric of --regex whose higher values are better."),
    ] = None,
    lower_better: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A metric of --regex whose lower values are better."),
    ] = None,
    sd: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=SD of one run, in place of the noise model's."),
    ] = None,
    alpha: AlphaOption = 0.05,
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    core: Annotated[
        bool, typer.Option("--core", help="CORE task by task, on the same examples.")
    ] = False,
) -> None:
    """Is B worse than A? Logs of runs in, a verdict for each metric out."""
    from harness.cli import compare as command
    from harness.compare.compare import CompareOptions
    from harness.gate import noise_sources

    a, b = command.split(paths, BETWEEN)
    asked = CompareOptions(
        alpha=command.checked_alpha(alpha),
        margins=command.numbers(margin or [], "--margin"),
        sds=command.numbers(sd or [], "--sd"),
        metrics=metric or [],
        higher_better=higher_better or [],
        lower_better=lower_better or [],
    )
    code = command.compare(
        new_console(),
        a,
        b,
        asked,
        regex=regex or [],
        noise_model=noise_sources.load_noise_model(noise_model, open_store(store)),
        form="json" if json else "markdown" if markdown else "terminal",
        tasks=core,
    )
    raise typer.Exit(code)


@app.command()
def noise(
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    write: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Keep the rows of own records as a noise model file."),
    ] = None,
) -> None:
    """The noise noise model: how much equal runs differ, and what is not known yet."""
    from harness.cli import compare as command

    raise typer.Exit(command.noise(new_console(), noise_model, open_store(store), write=write))


app.command()(gate)
app.command()(ci_cli.drift)
app.command()(cluster_cli.submit)


@app.command()
def doctor(
    store: StoreOption = STORE,
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
) -> None:
    """What this machine can run, and hints for the rest."""
    from harness.cli import study as commands
    from harness.runner.trainer import by_name

    raise typer.Exit(commands.doctor(new_console(), open_store(store), by_name(trainer)))


@app.command()
def pack(
    out: Annotated[Path, typer.Argument(help="The tar to write.")],
    store: StoreOption = STORE,
    compact: Annotated[
        bool, typer.Option("--compact", help="To publish: no run directories, no paths.")
    ] = False,
) -> None:
    """A store as one tar."""
    from harness.cli import store as command

    raise typer.Exit(command.pack(new_console(), open_store(store), out, compact=compact))


@app.command()
def unpack(
    source: Annotated[Path, typer.Argument(metavar="TAR", help="A tar that pack wrote.")],
    store: StoreOption = STORE,
) -> None:
    """Merges a packed store into another."""
    from harness.cli import store as command

    raise typer.Exit(command.unpack(new_console(), source, open_store(store)))
