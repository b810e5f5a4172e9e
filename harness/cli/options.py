"""Options that several commands share, each defined once, and the parsing of their values.

A command's signature uses these types; their default values are the constants in capitals.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.config.field_types import LARGEST, LONGEST_MINUTES, SMALLEST_RATE
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.comparison.exchange import ExchangeRate
    from harness.results.store import Store

STORE = Path("runs")
NOISE_MODEL = Path("baselines/noise.csv")
BASELINES = Path("baselines")
MOST_GPUS = 1024
SHORTEST_MINUTES = 0.001  # of a time limit: a shorter one ends every run before its first step


def within(low: float, high: float) -> Callable[[typer.CallbackParam, Any], Any]:
    """The callback of an option whose number lies from `low` to `high`; NaN does not."""

    def check(param: typer.CallbackParam, value: float | None) -> float | None:
        if value is None or low <= value <= high:
            return value
        expected = f"a number from {low:,.12g} to {high:,.12g}"
        hint = "Write a number in that range, or leave the option out."
        raise UsageError(param.opts[0], expected, f"{value:g}", hint)

    return check


def parse_store(text: str | Path) -> Path:
    """The folder of `--store`. Raises UsageError for an empty name and for a file."""
    path = Path(text)
    hint = "Name a folder; a store that does not exist yet is created."
    if not str(text).strip():
        raise UsageError("--store", "the folder of a store", "an empty text", hint)
    try:
        is_file = path.exists() and not path.is_dir()
    except OSError as error:  # a name that is too long
        raise UsageError("--store", "the folder of a store", str(error.strerror), hint) from error
    if is_file:
        raise UsageError("--store", "the folder of a store", f"the file {path}", hint)
    return path


StoreOption = Annotated[
    Path,
    typer.Option(
        "--store", parser=parse_store, metavar="PATH", help="Folder of all runs and records."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, such as dial.depth=8. May be repeated."),
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds, such as 1,2,5-7.")]
GpusOption = Annotated[
    str, typer.Option("--gpus", help="GPUs to use, such as 0-7: one run at a time on each.")
]
TrainerOption = Annotated[str, typer.Option("--trainer", help="The trainer: native or fake.")]
MaxMinutesOption = Annotated[
    float | None,
    typer.Option(
        "--max-minutes",
        callback=within(0, LONGEST_MINUTES),
        help="Stop before this many minutes; re-run the same command to resume.",
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option("--price", callback=within(0, LARGEST), help="Price in USD per GPU-hour."),
]
MarginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--margin",
        help="Largest tolerated harm, such as val_loss=0.002 or tokens_per_s=0.005 (0.5 %).",
    ),
]
AlphaOption = Annotated[
    float,
    typer.Option("--alpha", help="Rate of wrong outcomes, over all readings of one question."),
]
ExchangeOption = Annotated[
    float | None,
    typer.Option(
        "--exchange",
        callback=within(-1, 1),
        metavar="NATS",
        help="Loss in nats that 1 % more training time buys: adds the training time at equal "
        "loss. Known for GPT-2 small and for studies with horizons.",
    ),
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option("--target", help="NAME=VALUE: tests that the mean of each side is beyond it."),
]
TargetPOption = Annotated[
    float,
    typer.Option("--target-p", callback=within(0, 1), help="A target is met with a p below this."),
]
NoiseModelOption = Annotated[
    Path,
    typer.Option("--noise-model", help="Noise model file, used beside the shipped rows."),
]
BaselinesOption = Annotated[Path, typer.Option("--baselines", help="Folder of all baselines.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]
MarkdownFileOption = Annotated[
    Path | None, typer.Option("--markdown", help="Markdown file to write.")
]
NoHtmlOption = Annotated[bool, typer.Option("--no-html", help="Do not write the HTML report.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan, time and cost; start no run.")
]
RerunOption = Annotated[
    bool, typer.Option("--rerun", help="Repeat runs that are recorded already.")
]


def option_argv(ctx: typer.Context, leave_out: Sequence[str] = ()) -> list[str]:
    """The options that stood on a command line, as a new one would have them."""
    argv: list[str] = []
    for option in ctx.command.params:
        name = option.name or ""
        source = ctx.get_parameter_source(name)
        given = source is not None and source.name == "COMMANDLINE"
        if option.param_type_name != "option" or name in leave_out or not given:
            continue
        value = ctx.params[name]
        if isinstance(value, bool):
            argv.append(option.opts[0])
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            argv += [option.opts[0], str(one)]
    return argv


def open_store(path: Path) -> "Store":
    """A store, which need not exist yet."""
    from harness.results.store import Store

    return Store(path)


def gpu_list(text: str) -> list[str]:
    """The GPUs of `--gpus`, such as "0-3"; none for an empty text. Raises UsageError."""
    from harness.config.yaml_schema import parse_seeds

    return [str(number) for number in parse_seeds(text, "--gpus", MOST_GPUS)] if text else []


def metric_numbers(texts: list[str] | None, option: str) -> dict[str, float]:
    """`NAME=NUMBER` arguments as a mapping, each number above zero. Raises UsageError."""
    numbers = {}
    for text in texts or []:
        name, _, number = text.partition("=")
        if name in numbers:
            hint = "The order would decide which one counts: leave one of them out."
            raise UsageError(f"{option} {text}", f"one number for {name}", "two", hint)
        try:
            numbers[name] = float(number)
        except ValueError:
            numbers[name] = float("nan")
        if not 0 < numbers[name] <= LARGEST:
            hint = f"Such as {option} val_loss=0.002; speeds are relative, 0.005 for 0.5 %."
            raise UsageError(f"{option} {text}", "NAME=NUMBER, above zero", repr(number), hint)
    return numbers


def exchange_rate(nats: float | None, paths: Sequence[str] = ()) -> "ExchangeRate | None":
    """The stated rate, or one that a study among the paths of both sides has measured."""
    if nats is None and not any(":" in path for path in paths):
        return None
    from harness.study import exchange

    return exchange.exchange_rate(nats, paths)


def checked_alpha(alpha: float) -> float:
    """The error rate of `--alpha`, between 0 and 0.5. Raises UsageError."""
    if not SMALLEST_RATE <= alpha < 0.5:
        expected = f"a rate from {SMALLEST_RATE:g} to less than 0.5"
        hint = "Use 0.05 for a pull request, 0.01 to promote a baseline."
        raise UsageError("--alpha", expected, f"{alpha:g}", hint)
    return alpha
