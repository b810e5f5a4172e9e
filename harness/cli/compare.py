"""`harness compare`: two sets of runs in, an outcome for each metric out."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from typer.core import TyperCommand

from harness.cli.console import new_console
from harness.cli.options import (
    NOISE_MODEL,
    STORE,
    AlphaOption,
    ExchangeOption,
    JsonOption,
    MarginOption,
    NoiseModelOption,
    StoreOption,
    TargetOption,
    TargetPOption,
    checked_alpha,
    exchange_rate,
    metric_numbers,
    open_store,
    option_argv,
    within,
)
from harness.comparison.noise_model import NoiseModel
from harness.comparison.options import CompareOptions
from harness.errors import UsageError
from harness.format import plural
from harness.gate.noise_sources import load_noise_model
from harness.stats.spending import MOST_READINGS

Form = Literal["terminal", "markdown", "json"]
BETWEEN = "\0--"  # stands for the `--` between the sides; no file can have this name


class _Sides(TyperCommand):
    """Keeps the `--` between the two sides, which otherwise only ends the options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [BETWEEN if text == "--" else text for text in args])


COMMAND_CLASS = _Sides


def command(
    ctx: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="A... -- B",
            help="Logs, tables, folders, run directories, records, stores, STORE:STUDY/ARM.",
        ),
    ],
    margin: MarginOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Only this metric. May be repeated."),
    ] = None,
    regex: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PATTERN, with {number} in it: reads the last such line of any log."
        ),
    ] = None,
    higher_better: Annotated[
        list[str] | None,
        typer.Option(help="A metric of --regex whose higher values are better."),
    ] = None,
    lower_better: Annotated[
        list[str] | None,
        typer.Option(help="A metric of --regex whose lower values are better."),
    ] = None,
    exchange: ExchangeOption = None,
    target: TargetOption = None,
    target_p: TargetPOption = 0.01,
    sd: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SD of one run, in place of the noise model's."),
    ] = None,
    seen: Annotated[
        int,
        typer.Option(
            callback=within(0, MOST_READINGS),
            help="How often this question was compared before, with fewer runs. Known for runs "
            "that are in a store.",
        ),
    ] = 0,
    alpha: AlphaOption = 0.05,
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    core: Annotated[
        bool, typer.Option("--core", help="CORE task by task, on the same examples.")
    ] = False,
) -> None:
    """Is B worse than A? Reads runs of both sides; prints an outcome for each metric."""
    if json and markdown:
        raise UsageError("--json", "one format", "--markdown too", "Pass one of them.")
    a, b = split(paths, BETWEEN)
    options = CompareOptions(
        alpha=checked_alpha(alpha),
        margins=metric_numbers(margin or [], "--margin"),
        sds=metric_numbers(sd or [], "--sd"),
        metrics=metric or [],
        higher_better=higher_better or [],
        lower_better=lower_better or [],
        seen=seen,
        exchange=exchange_rate(exchange, [*a, *b]),
        targets=metric_numbers(target or [], "--target"),
        target_p=target_p,
    )
    code = compare(
        new_console(),
        a,
        b,
        options,
        regex=regex or [],
        noise_model=load_noise_model(noise_model, open_store(store)),
        form="json" if json else "markdown" if markdown else "terminal",
        tasks=core,
        argv=option_argv(ctx, leave_out=("seen",)),
    )
    raise typer.Exit(code)


def compare(
    console: Console,
    a: Sequence[str],
    b: Sequence[str],
    options: CompareOptions,
    *,
    regex: Sequence[str],
    noise_model: NoiseModel,
    form: Form = "terminal",
    tasks: bool = False,
    argv: Sequence[str] = (),
) -> int:
    """Reads, compares and prints two sides; returns the exit code of the worst metric.

    `tasks`: CORE task by task too. `argv`: the options, for the command that the report advises.
    """
    from harness.comparison import core_by_example
    from harness.comparison.readings import compare_and_record
    from harness.report.compare import build_comparison
    from harness.report.export import document_json
    from harness.report.markdown import as_markdown
    from harness.report.terminal import print_document
    from harness.results.logs import read_sides
    from harness.results.logs import regex as pattern

    patterns = pattern.parse(list(regex))
    runs = read_sides(list(a), list(b), patterns)
    options = msgspec.structs.replace(options, also=list(patterns))
    comparison = compare_and_record(*runs, options, noise_model)
    comparison = core_by_example.with_core(comparison, *runs, wanted=tasks)
    again = None
    if comparison.more_runs:
        command = ["harness", "compare", *_short(a), "--", *_short(b), *argv]
        again = shlex.join([*command, "--seen", str(comparison.seen + 1)])
    document = build_comparison(comparison, tasks=tasks, again=again)
    if form == "json":
        console.file.write(document_json(document))
    elif form == "markdown":
        console.file.write(as_markdown(document))
    else:
        print_document(console, document)
    return comparison.exit_code


def _short(paths: Sequence[str]) -> list[str]:
    """The folder, for all of its files; else the paths themselves."""
    from harness.results.logs.read import LOG_SUFFIXES

    folders = {Path(path).parent for path in paths}
    if len(paths) > 1 and len(folders) == 1:
        folder = folders.pop()
        logs = {str(file) for file in folder.iterdir() if file.suffix in LOG_SUFFIXES}
        if logs == {str(Path(path)) for path in paths}:
            return [str(folder)]
    return list(paths)


def split(argv: Sequence[str], between: str) -> tuple[list[str], list[str]]:
    """The paths of both sides, before and after `between`. Raises UsageError."""
    at = [index for index, text in enumerate(argv) if text == between]
    a, b = (argv[: at[0]], argv[at[0] + 1 :]) if at else (argv, [])
    if len(at) != 1 or not a or not b:
        raise UsageError(
            "harness compare",
            "two sides, as A... -- B...",
            f"{plural(len(a), 'path')} before -- and {len(b)} after" if len(at) < 2 else "-- twice",
            "Such as: harness compare baseline/ -- change/",
        )
    return list(a), list(b)
