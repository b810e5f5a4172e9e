"""What `harness compare` and `harness noise` do: words in, a page out, an exit code.

Needs no GPU and no configuration: logs of other trainers are enough. Last in the flow beside
`commands`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from harness import errors
from harness.compare.noise_model import (
    MEASURED_DF,
    NoiseModel,
    NoiseRow,
    as_csv,
    missing_rows,
)
from harness.errors import UsageError
from harness.gate.noise_sources import derived_rows, load_noise_model
from harness.results.store import Store

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from harness.compare.compare import CompareOptions

Form = Literal["terminal", "markdown", "json"]


def compare(
    console: "Console",
    a: Sequence[str],
    b: Sequence[str],
    asked: "CompareOptions",
    *,
    regex: Sequence[str],
    noise_model: NoiseModel,
    form: Form = "terminal",
    tasks: bool = False,
) -> int:
    """Reads both sides, judges them, prints; the exit code is that of the worst metric.

    `tasks`: CORE task by task too.
    """
    from harness.compare import core_by_example
    from harness.compare.compare import compare as judge
    from harness.report import compare as summary
    from harness.results.logs import read_sides
    from harness.results.logs import regex as pattern

    patterns = pattern.parse(list(regex))
    runs = read_sides(list(a), list(b), patterns)
    found = judge(*runs, msgspec.structs.replace(asked, also=list(patterns)), noise_model)
    found = core_by_example.with_core(found, *runs, wanted=tasks)
    if form == "json":
        console.file.write(summary.as_json(found) + "\n")
    elif form == "markdown":
        console.file.write(summary.as_markdown(found, tasks=tasks))
    else:
        summary.print_comparison(console, found, tasks=tasks)
    return found.exit_code


def split(words: Sequence[str], between: str) -> tuple[list[str], list[str]]:
    """The sides' paths, before and after the word that stands between them. Raises UsageError."""
    at = [index for index, word in enumerate(words) if word == between]
    a, b = (words[: at[0]], words[at[0] + 1 :]) if at else (words, [])
    if len(at) != 1 or not a or not b:
        raise UsageError(
            "harness compare",
            "two sides, as A… -- B…",
            f"{len(a)} paths before -- and {len(b)} after" if len(at) < 2 else "-- twice",
            "Such as: harness compare baseline/ -- change/",
        )
    return list(a), list(b)


def numbers(words: Sequence[str], option: str) -> dict[str, float]:
    """`NAME=NUMBER` words as a mapping; each above zero. Raises UsageError."""
    found = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = float("nan")
        if not 0 < found[name] < float("inf"):
            raise UsageError(
                f"{option} {word}",
                "NAME=NUMBER, above zero",
                repr(text),
                f"Such as {option} val_loss=0.002; speeds are relative, 0.005 for 0.5 %.",
            )
    return found


def checked_alpha(alpha: float) -> float:
    """An error rate that means something. Raises UsageError."""
    if not 0 < alpha < 0.5:
        raise UsageError(
            "--alpha",
            "a rate between 0 and 0.5",
            f"{alpha:g}",
            "0.05 for a pull request, 0.01 to bank an improvement.",
        )
    return alpha


# --- harness noise --------------------------------------------------------------------------------


def noise(console: "Console", file: Path, store: Store, *, write: Path | None) -> int:
    """Shows the noise model, and what own records lack; `write` keeps the own rows as a file."""
    records, own = store.records(), derived_rows(store)
    noise_model = load_noise_model(file, store)
    marks = {note: mark for mark, note in zip("¹²³⁴⁵⁶⁷⁸⁹", _notes(noise_model.rows), strict=False)}
    console.print(_table(noise_model.rows, marks))
    for note, mark in marks.items():
        console.print(f"{mark} {note}", style="dim", markup=False, highlight=False)
    for line in missing_rows(records) or [_nothing_own(store)] * (not own):
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

    from harness.metrics import SPEEDS

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
        sd = f"{row.sd:.3%}" if row.metric in SPEEDS else f"{row.sd:.3g}"
        origin = row.origin + marks.get(row.note, "")
        gpu = row.gpu.removeprefix("NVIDIA ")
        cells = [row.scale, row.metric, gpu, row.source, sd, str(row.df), str(row.runs), origin]
        style = "bold" if row.origin == "measured" and row.df >= MEASURED_DF else None
        table.add_row(*map(escape, cells), style=style)
    return table
