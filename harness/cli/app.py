"""The command line `harness`: a table of its commands.

Each command is one module of this package, imported when it is named: `harness --help` needs none.
Such a module has a function `command`, whose signature is the command's arguments and options, or
`app`, a Typer application, where the command has commands of its own. Every command gets `-h`, `-v`
and `-q`, and the examples of the table below its help.
"""

import importlib
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup


class Entry(NamedTuple):
    """A command in the list of `harness --help`, with examples of its use."""

    summary: str
    examples: tuple[str, ...] = ()


PANELS = {
    "Get started": {
        "init": Entry(
            "Copy example studies and configurations into ablations/",
            ("harness init", "harness init my-project"),
        ),
        "doctor": Entry(
            "Check what this machine can run",
            ("harness doctor", "harness doctor --trainer fake"),
        ),
    },
    "Run experiments": {
        "study": Entry(
            "Run every arm of a study at every seed, and report",
            (
                "harness study ablations/studies/fake.yaml",
                "harness study ablations/studies/speedrun_d8.yaml --dry-run --price 3",
                "harness study ablations/studies/speedrun_d8.yaml --gpus 0-7",
            ),
        ),
        "report": Entry(
            "Report a stored study: table, HTML, JSON, CSV, picture",
            (
                "harness report fake",
                "harness report fake --csv fake.csv --picture fake.png",
                "harness report smoke --store /data/runs --no-html",
            ),
        ),
        "search": Entry(
            "Search the best settings of a configuration",
            (
                "harness search ablations/searches/fake.yaml",
                "harness search ablations/searches/speedrun_d6.yaml --gpus 0-7",
                "harness search ablations/searches/fake.yaml --report",
            ),
        ),
        "full": Entry(
            "Run a full job: preflight, forecast, launch, leaderboard entry",
            (
                "harness full ablations/full/fake.yaml --without-forecast",
                "harness full ablations/full/d24.yaml --dry-run --price 24",
                "harness full ablations/full/d24.yaml --preflight --json",
            ),
        ),
        "run": Entry(
            "Run one configuration once",
            (
                "harness run ablations/configs/fake.yaml --trainer fake --seed 3",
                "harness run ablations/configs/speedrun_tiny_cpu.yaml --set dial.depth=2",
            ),
        ),
    },
    "Compare runs": {
        "compare": Entry(
            "Compare two sets of runs or logs",
            (
                "harness compare runs:fake/base -- runs:fake/no_muon",
                "harness compare before/*.log -- after/*.log --margin val_loss=0.002",
                "harness compare a.txt -- b.txt --regex 'loss=loss {number}' --json",
            ),
        ),
        "gate": Entry(
            "Check a change for regressions of quality and speed",
            (
                "harness gate --baseline speedrun --base main --plan",
                "harness gate --baseline speedrun --base main --budget-minutes 20",
                "harness gate ablations/configs/fake.yaml --trainer fake --base .",
            ),
        ),
        "baseline": Entry(
            "Record, accept and show stored baselines",
            (
                "harness baseline record small ablations/configs/fake.yaml --trainer fake",
                "harness baseline list",
            ),
        ),
        "drift": Entry(
            "Find the night since which runs are slower or worse",
            (
                "harness drift --store nightly",
                "harness drift --store nightly --recent 7 --markdown drift.md",
            ),
        ),
        "noise": Entry(
            "Show the noise model: how much equal runs differ",
            ("harness noise", "harness noise --store runs --write baselines/noise.csv"),
        ),
    },
    "Clusters, CI and stores": {
        "submit": Entry(
            "Run a command as a job of Slurm",
            (
                "harness submit slurm.yaml -- study study.yaml --gpus 0-7",
                "harness submit --jobs",
                "harness submit --cancel 4711",
            ),
        ),
        "ci": Entry(
            "Write, update and check GitHub workflows",
            ("harness ci init --runner gpu --baseline speedrun", "harness ci check"),
        ),
        "pack": Entry(
            "Pack a store into one tar file",
            ("harness pack runs.tar", "harness pack published.tar --compact"),
        ),
        "unpack": Entry(
            "Merge a packed store into another",
            ("harness unpack runs.tar", "harness unpack node7.tar --store /data/runs"),
        ),
    },
}
COMMANDS = {name: entry for panel in PANELS.values() for name, entry in panel.items()}
EXAMPLES = {
    "baseline record": (
        "harness baseline record small small.yaml --seeds 1-8",
        "harness baseline record small --from runs:fake/base",
    ),
    "baseline accept": (
        "harness baseline accept small small.yaml --why 'new optimizer'",
        "harness baseline accept small --from runs:fake/base --why 'new optimizer'",
    ),
    "baseline list": ("harness baseline list", "harness baseline list --baselines my-baselines"),
    "baseline show": ("harness baseline show small", "harness baseline show small --json"),
    "ci init": (
        "harness ci init",
        "harness ci init --runner self-hosted --runner h100 --baseline d12",
    ),
    "ci update": ("harness ci update", "harness ci update --root ../other-repository"),
    "ci check": ("harness ci check --strict", "harness ci check .github/workflows/own.yml"),
    "ci results": (
        "harness ci results gate.json --junit gate.xml",
        "harness ci results gate.json --exit-code 3 --outcome outcome.txt",
    ),
}
"""Examples of the commands of a command."""


class LazyGroup(TyperGroup):
    """Imports a command's module when the command is named."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if self.commands[cmd_name] is None:
            self.commands[cmd_name] = load(cmd_name)
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The panels of `harness --help`, from the table alone."""
        width = max(map(len, COMMANDS))
        for title, entries in PANELS.items():
            with formatter.section(title):
                rows = [(name.ljust(width), entry.summary) for name, entry in entries.items()]
                formatter.write_dl(rows)


def load(name: str) -> Any:
    """The parser of one command."""
    module = importlib.import_module(f"harness.cli.{name}")
    if not hasattr(module, "app"):
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name, cls=getattr(module, "COMMAND_CLASS", None))(module.command)
        return _completed(typer.main.get_command(single), COMMANDS[name].examples)
    group = typer.main.get_group(module.app)
    group.epilog = _epilog(COMMANDS[name].examples)
    for child, command in group.commands.items():
        command.short_help = (command.help or "").partition("\n")[0]  # whole, on several lines
        _completed(command, EXAMPLES[f"{name} {child}"])
    return group


def _completed(command: Any, examples: tuple[str, ...]) -> Any:
    """A command with the options and the help that every command has."""
    command.epilog = _epilog(examples)
    command.params += _verbosity_options()
    return command


def _epilog(examples: tuple[str, ...]) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)


def _verbosity_options() -> list[Any]:
    def chosen(level: int) -> Callable[[bool], None]:
        def callback(value: bool) -> None:
            if value:
                from harness.cli.console import set_verbosity

                set_verbosity(level)

        return callback

    logs, silent = "Log every trainer process that is started.", "Show no progress."

    def options(
        verbose: Annotated[
            bool, typer.Option("-v", "--verbose", callback=chosen(1), help=logs)
        ] = False,
        quiet: Annotated[
            bool, typer.Option("-q", "--quiet", callback=chosen(-1), help=silent)
        ] = False,
    ) -> None: ...

    holder = typer.Typer(add_completion=False)
    holder.command()(options)
    params = list(typer.main.get_command(holder).params)
    for param in params:
        param.expose_value = False
    return params


app = typer.Typer(
    name="harness",
    cls=LazyGroup,
    help="Measure what each trick of a GPT-2 speedrun trainer is worth, with interval and price.",
    epilog=_epilog(("harness init", "harness study ablations/studies/fake.yaml"))
    + "\n\n\b\n`harness COMMAND --help` shows the options and examples of a command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"harness {metadata.version('speedrun-harness')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    from harness.cli.console import set_verbosity

    set_verbosity(0)
