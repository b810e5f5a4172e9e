"""Options that several commands have, and what each command begins with.

Read when the command line is: nothing heavy is imported before a command runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from harness.results.store import Store

StoreOption = Annotated[Path, typer.Option("--store", help="Folder of all runs and records.")]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads it at run time)
    typer.Option("--set", help="Override, such as dial.depth=8. May be repeated."),
]
STORE = Path("runs")
NoiseModelOption = Annotated[
    Path,
    typer.Option(
        "--noise-model", help="A noise model file beside the shipped rows, where it exists."
    ),
]
NOISE_MODEL = Path("baselines/noise.csv")
BaselinesOption = Annotated[Path, typer.Option("--baselines", help="Folder of all baselines.")]
AlphaOption = Annotated[float, typer.Option(help="Error rate of each verdict.")]
MarginOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="Harm that matters, such as val_loss=0.002 or tokens_per_s=0.005."),
]
MaxMinutesOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Stop in time, between two runs; the same command goes on."),
]
PriceOption = Annotated[Optional[float], typer.Option(help="USD per GPU-hour.")]  # noqa: UP045
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BASELINES = Path("baselines")


def new_console() -> "Console":
    """The terminal."""
    from rich.console import Console

    return Console()


def open_store(path: Path) -> "Store":
    """A store, which need not exist yet."""
    from harness.results.store import Store

    return Store(path)
