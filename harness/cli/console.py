"""What several commands print."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.results.record import Record


def _tell_recovered(console: "Console", made: Sequence[Record]) -> None:
    for record in made:
        what = f"{record.launch.arm or record.plan_id}, seed {record.seed}"
        _say(console, f"A killed harness had left {what}; recorded as {record.status}.")


def _tell_written(console: "Console", written: dict[str, Path]) -> None:
    for kind, path in written.items():
        _say(console, f"{kind}: {path}")


def _say(console: "Console", text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
