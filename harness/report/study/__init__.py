"""The report of a study: in the terminal, as one offline HTML file, as JSON and CSV, as a picture.

Last in the flow before the command line. Every number is computed from the records of the store at
the moment of asking; nothing in a report is typed in or carried over.

    tasks       CORE of every arm, task by task
    content     study + attribution + CORE + order of arms, read once
    wording     numbers and sentences as a reader sees them
    core        the tables of CORE by task, as cells and sentences
    terminal    rich tables
    tables      report.json, report.csv
    charts      plotly figures            (extra `report`)
    markup      pieces of HTML            (extra `report`)
    html        report.html               (extra `report`)
    picture     the bars as a PNG          (extra `report`)
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness import files
from harness.errors import ReportError
from harness.report.study.content import Content, load
from harness.results.store import Store

if TYPE_CHECKING:
    from rich.console import Console

EXTRA = "pip install 'speedrun-harness[report]'"


def write_all(
    store: Store,
    name: str,
    *,
    html: Path | None = None,
    json: Path | None = None,
    csv: Path | None = None,
    skip_html: bool = False,
    note: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> dict[str, Path]:
    """Writes report.html, report.json and report.csv; returns where, by kind.

    They go into the store's reports/study/<name>/ unless a path is given. Without plotly the HTML
    is left out and `note` is called with what to install. Raises StoreError for an unknown
    study, DiskError.
    """
    from harness.report.study import export

    content = load(store, name)
    folder = store.report_dir("study", name)
    written = {"json": json or folder / "report.json", "csv": csv or folder / "report.csv"}
    files.write_bytes(written["json"], export.as_json(content))
    files.write_text(written["csv"], export.as_csv(content))
    if skip_html:
        return written
    if importlib.util.find_spec("plotly") is None:
        note(f"report.html was left out: it needs plotly. To have it: {EXTRA}")
        return written
    from harness.report.study.html import page

    written["html"] = html or folder / "report.html"
    files.write_text(written["html"], page(content))
    return written


def print_table(console: "Console", store: Store, name: str) -> None:
    """Prints the report to a rich console. Raises StoreError for an unknown study."""
    from harness.report.study.terminal import print_content

    print_content(console, load(store, name))


def write_picture(store: Store, name: str, path: Path) -> Path:
    """Draws the attribution bars as a PNG. Raises ReportError without matplotlib, StoreError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ReportError(
            "",
            "matplotlib, which draws the picture",
            "no such package",
            f"Install the extra: {EXTRA}",
        )
    from harness.report.study.png import draw

    files.write_bytes(path, draw(load(store, name)))
    return path


__all__ = ["Content", "load", "print_table", "write_all", "write_picture"]
