"""`harness noise`: the noise model, and what own records lack."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from harness import errors
from harness.cli.console import new_console
from harness.cli.options import NOISE_MODEL, STORE, NoiseModelOption, StoreOption, open_store
from harness.compare.noise_model import (
    MEASURED_DF,
    NoiseRow,
    as_csv,
    missing,
)
from harness.gate.noise_sources import derived_rows, load_noise_model
from harness.results.store import Store

if TYPE_CHECKING:
    from rich.table import Table


def command(
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    write: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Keep the rows of own records as a noise model file."),
    ] = None,
) -> None:
    """The noise noise model: how much equal runs differ, and what is not known yet."""
    raise typer.Exit(noise(new_console(), noise_model, open_store(store), write=write))


def noise(console: Console, file: Path, store: Store, *, write: Path | None) -> int:
    """Shows the noise model, and what own records lack; `write` keeps the own rows as a file."""
    records, own = store.records(), derived_rows(store)
    noise_model = load_noise_model(file, store)
    marks = {note: mark for mark, note in zip("¹²³⁴⁵⁶⁷⁸⁹", _notes(noise_model.rows), strict=False)}
    console.print(_table(noise_model.rows, marks))
    for note, mark in marks.items():
        console.print(f"{mark} {note}", style="dim", markup=False, highlight=False)
    for line in missing(records) or [_nothing_own(store)] * (not own):
        console.print(f"missing: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        "SD of one run, of one launch or between hosts, as the column variance says; of speeds "
        f"relative. df: degrees of freedom. A measured row replaces the shipped "
        f"one from {MEASURED_DF} df on.",
        style="dim",
        markup=False,
    )
    if write is not None:
        from harness import files

        files.write_text(write, as_csv(own))
        console.print(f"{len(own)} own rows: {write}", markup=False, highlight=False)
    return errors.PASS


def _nothing_own(store: Store) -> str:
    return f"own rows: {store.root} has no replicates; runs of two seeds or more make some"


def _notes(rows: Sequence[NoiseRow]) -> list[str]:
    return list(dict.fromkeys(row.note for row in rows if row.note))


def _table(rows: Sequence[NoiseRow], marks: Mapping[str, str]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from harness.compare.noise_model import TIMES

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="underline")
    for title in ("recipe", "metric", "GPU", "variance", "SD", "df", "runs", "from"):
        right, least = title in ("SD", "df", "runs"), {"recipe": 10, "metric": 12}.get(title)
        table.add_column(
            title,
            justify="right" if right else "left",
            no_wrap=title not in ("recipe", "metric", "GPU"),
            min_width=least,
            overflow="fold",
        )
    for row in rows:
        sd = f"{row.sd:.3%}" if row.metric in TIMES else f"{row.sd:.3g}"
        origin = row.origin + marks.get(row.note, "")
        gpu = row.gpu.removeprefix("NVIDIA ")
        cells = [row.scale, row.metric, gpu, row.source, sd, str(row.df), str(row.runs), origin]
        style = "bold" if row.origin == "measured" and row.df >= MEASURED_DF else None
        table.add_row(*map(escape, cells), style=style)
    return table
