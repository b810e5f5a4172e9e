"""The jobs of a store as a table in the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.cli.slurm.status import State
from harness.redact import redact_argv

if TYPE_CHECKING:
    from rich.console import Console


def show(console: "Console", jobs: Sequence[State]) -> None:
    """A line a job, and below it why it ended and where its log is."""
    from rich.markup import escape
    from rich.table import Table

    if not jobs:
        console.print("No job was submitted with this store.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="underline")
    for title in ("submission", "job", "state", "exit", "again", "command"):
        right = title in ("exit", "again")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for job in jobs:
        code = "" if job.exit_code is None else str(job.exit_code)
        command = " ".join(redact_argv(job.words))
        cells = [job.id, job.number, job.state, code, str(job.again), command]
        table.add_row(*map(escape, cells))
    console.print(table)
    for job in jobs:
        why = f"{job.text}; " if job.text else ""
        console.print(
            f"{job.number}: {why}{job.log}", markup=False, highlight=False, soft_wrap=True
        )
