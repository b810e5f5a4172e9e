"""The two consoles of a command, and how a command prints its result.

Results go to standard output and progress to standard error, so that `harness ... --json | jq`
works while a person still sees what is going on.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.escape import escape
from harness.report.document import Document
from harness.results.record import Record

_quiet = False


def set_verbosity(level: int) -> None:
    """1: log every started program to standard error. -1: print no progress. 0: neither."""
    global _quiet
    _quiet = level < 0
    logging.getLogger("harness").setLevel(logging.INFO if level > 0 else logging.NOTSET)
    if level > 0:
        logging.basicConfig(format="%(asctime)s %(message)s")


def new_console(*, stderr: bool = False) -> Console:
    """The console of a command's result: standard output, or standard error."""
    return Console(stderr=stderr)


def progress_console() -> Console:
    """The console of a command's progress: standard error, silent with `--quiet`."""
    return Console(stderr=True, quiet=_quiet)


def print_line(console: Console, text: str) -> None:
    """One line of text: no markup, no colours, no wrapping, no command of a CI runner."""
    console.print(escape(text, "log"), markup=False, highlight=False, soft_wrap=True)


def print_result(document: Document, *, json: bool, details: bool = False) -> None:
    """Prints the result of a command: a document, or its JSON. `details`: folded sections too."""
    from harness.report.export import document_json
    from harness.report.terminal import print_document

    if json:
        new_console().file.write(document_json(document))
    else:
        print_document(new_console(), document, details=details)


def print_recovered(console: Console, recovered: Sequence[Record]) -> None:
    """The runs that a killed harness left running and that were recorded just now."""
    for record in recovered:
        run = f"{record.launch.arm or record.plan_id}, seed {record.seed}"
        print_line(console, f"Recovered {run} from a killed harness: recorded as {record.status}.")


def print_written(console: Console, written: dict[str, Path]) -> None:
    """The files that a command wrote, one a line."""
    for kind, path in written.items():
        print_line(console, f"{kind}: {path}")
