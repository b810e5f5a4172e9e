"""The command line `harness`: a table of its commands.

Each command is one module of this package, imported when it is named: `harness --help` needs none.
Such a module has a function `command`, whose signature is the command's arguments and options, or
`app`, a Typer application, where the command has commands of its own.
"""

import importlib
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup


class Entry(NamedTuple):
    """A command in the list of `harness --help`."""

    module: str
    summary: str


PANELS = {
    "Run experiments": {
        "study": Entry("study", "Run every arm of a study at every seed, and report"),
        "report": Entry("report", "Report a stored study: table, HTML, JSON, CSV, picture"),
        "search": Entry("search", "Search the best settings of a configuration"),
        "full": Entry("full", "Run a full job: preflight, forecast, launch, leaderboard entry"),
        "run": Entry("run", "Run one configuration once"),
    },
    "Compare runs": {
        "compare": Entry("compare", "Compare two sets of runs or logs"),
        "gate": Entry("gate", "Check a change for regressions of quality and speed"),
        "baseline": Entry("baseline", "Record, accept and show stored baselines"),
        "drift": Entry("drift", "Find the night since which runs are slower or worse"),
        "noise": Entry("noise", "Show the noise model: how much equal runs differ"),
    },
    "Machines and stores": {
        "doctor": Entry("doctor", "Check what this machine can run"),
        "submit": Entry("submit", "Run a command as a job of Slurm"),
        "ci": Entry("ci", "Write, update and check GitHub workflows"),
        "pack": Entry("pack", "Pack a store into one tar file"),
        "unpack": Entry("unpack", "Merge a packed store into another"),
    },
}
COMMANDS = {name: entry for panel in PANELS.values() for name, entry in panel.items()}


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
                formatter.write_dl(
                    [(name.ljust(width), row.summary) for name, row in entries.items()]
                )


def load(name: str) -> Any:
    """The parser of one command."""
    module = importlib.import_module(f"harness.cli.{COMMANDS[name].module}")
    if hasattr(module, "app"):
        return typer.main.get_group(module.app)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, cls=getattr(module, "COMMAND_CLASS", None))(module.command)
    return typer.main.get_command(single)


app = typer.Typer(
    name="harness",
    cls=LazyGroup,
    help="Measure what each trick of a GPT-2 speedrun trainer is worth, with interval and price.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    pass
