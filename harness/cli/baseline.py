"""`harness baseline`: records, accepts, lists and shows stored baselines."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from harness import errors
from harness.cli import options
from harness.cli.console import print_line, print_result, progress_console
from harness.config.yaml_schema import parse_seeds, parse_sets
from harness.errors import UsageError
from harness.gate import baseline, promotion
from harness.gate.baseline import ReplicateSet
from harness.gate.noise_sources import load_noise_model
from harness.report.gate.baseline import build_baseline, build_list, build_promotion
from harness.results.record import Record
from harness.runner.trainer import by_name

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Stored baselines: the replicates that later gates are compared with.",
)
NameArgument = Annotated[str, typer.Argument(help="The name of the baseline.")]
ConfigArgument = Annotated[Path | None, typer.Argument(help="Configuration file to run now.")]
SourceOption = Annotated[
    str, typer.Option("--from", help="STORE:STUDY/ARM: use the runs of a stored study.")
]


@app.command("record")
def record(
    name: NameArgument,
    config: ConfigArgument = None,
    source: SourceOption = "",
    sets: options.SetOption = None,
    seeds: options.SeedsOption = "1-6",
    why: Annotated[str, typer.Option(help="What the baseline is for.")] = "",
    trainer: options.TrainerOption = "native",
    store: options.StoreOption = options.STORE,
    noise_model: options.NoiseModelOption = options.NOISE_MODEL,
    baselines: options.BaselinesOption = options.BASELINES,
    json: options.JsonOption = False,
) -> None:
    """Record the replicates of a configuration as a new baseline."""
    baseline.check_name(name)
    rows = load_noise_model(noise_model, options.open_store(store))
    replicate_set = _replicates(
        config,
        source,
        sets or [],
        seeds,
        trainer,
        store,
        lambda first: baseline.check_unused(baselines, name, first),
    )
    result = promotion.record(baselines, name, replicate_set, rows, why=why)
    print_result(build_promotion(result), json=json)
    raise typer.Exit(result.exit_code)


@app.command("accept")
def accept(
    name: NameArgument,
    why: Annotated[str, typer.Option(help="Why it replaces the current entry.")],
    config: ConfigArgument = None,
    source: SourceOption = "",
    sets: options.SetOption = None,
    seeds: options.SeedsOption = "7-12",
    allow_regression: Annotated[
        bool, typer.Option("--allow-regression", help="Accept replicates that are worse.")
    ] = False,
    trainer: options.TrainerOption = "native",
    store: options.StoreOption = options.STORE,
    noise_model: options.NoiseModelOption = options.NOISE_MODEL,
    baselines: options.BaselinesOption = options.BASELINES,
    json: options.JsonOption = False,
) -> None:
    """Replace the current entry of a baseline with fresh replicates, and keep the old entries."""
    if not why.strip():
        hint = "Write what a reader of the entry needs, such as --why 'new optimizer'."
        raise UsageError("--why", "a reason", "an empty text", hint)
    old = baseline.find(baselines, name)
    rows = load_noise_model(noise_model, options.open_store(store))
    replicate_set = _replicates(
        config,
        source,
        sets or [],
        seeds,
        trainer,
        store,
        lambda first: baseline.check_comparable(old, first.identity, own_settings=True),
    )
    result = promotion.accept(
        baselines,
        name,
        replicate_set,
        options.open_store(store),
        rows,
        why=why,
        allow_regression=allow_regression,
    )
    print_result(build_promotion(result), json=json)
    raise typer.Exit(result.exit_code)


@app.command("list")
def list_all(
    baselines: options.BaselinesOption = options.BASELINES, json: options.JsonOption = False
) -> None:
    """List every baseline."""
    stored = [baseline.read(path) for path in baseline.list_files(baselines)]
    print_result(build_list(stored, str(baselines)), json=json)
    raise typer.Exit(errors.PASS)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A name, in the short or long form of `list`.")],
    baselines: options.BaselinesOption = options.BASELINES,
    json: options.JsonOption = False,
) -> None:
    """Show one baseline: its entries, why each was stored, and the current runs."""
    print_result(build_baseline(baseline.find(baselines, name)), json=json)
    raise typer.Exit(errors.PASS)


def _replicates(
    config: Path | None,
    source: str,
    sets: list[str],
    seeds: str,
    trainer: str,
    store: Path,
    check_first: Callable[[Record], None],
) -> ReplicateSet:
    """Runs a configuration file, or takes the runs of a study's arm. Raises UsageError.

    `check_first`: refuses a first run, before the others are made.
    """
    if (config is None) == (not source):
        expected = "either a configuration file or --from STORE:STUDY/ARM"
        hint = "A file is run now; --from takes the runs of a stored study."
        raise UsageError("harness baseline", expected, "both" if source else "neither", hint)
    if config is None:
        return promotion.replicates_of_arm(source)
    console = progress_console()
    return promotion.make_replicates(
        options.open_store(store),
        by_name(trainer),
        config,
        parse_sets(sets),
        parse_seeds(seeds, "--seeds"),
        lambda text: print_line(console, text),
        check_first,
    )
