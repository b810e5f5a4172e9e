"""The report of the noise model: every row, and which rows the user's own records lack."""

from collections.abc import Sequence

from harness import format
from harness.comparison.noise_model import MEASURED_DF, NoiseModel, NoiseRow
from harness.metrics import SPEEDS
from harness.report.document import Cell, Column, Document, Notes, Table, number, present, table

MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


def build_noise(
    model: NoiseModel, measured: Sequence[NoiseRow], missing: Sequence[str], store: str
) -> Document:
    """`measured`: the rows of the user's own records; `missing`: what they lack, a line each."""
    sources = list(dict.fromkeys(row.note for row in model.rows if row.note))
    marks = {note: mark for mark, note in zip(MARKS, sources, strict=False)}
    lacking = list(missing)
    if not measured and not lacking:
        lacking = [f"{store} has no replicates; runs of two seeds or more give measured rows"]
    used = sum(row.origin == "measured" for row in model.rows)
    return Document(
        title="Noise model",
        answer=f"{format.plural(len(model.rows), 'row')}, {used} measured on your own runs",
        blocks=present(
            _table(model.rows, marks),
            Notes(items=[f"{mark} {note}" for note, mark in marks.items()]),
            Notes(items=[f"missing: {line}" for line in lacking]),
            Notes(
                items=[
                    "SD: of one run, of one launch or between hosts, by the column variance; "
                    "relative for speeds. df: degrees of freedom; predicts: those with which the "
                    "row predicts the SD of a recipe of this scale. Same seed: mean correlation "
                    "of two configurations at the same seeds. A measured row replaces the "
                    f"shipped one from {MEASURED_DF} df on."
                ]
            ),
        ),
        data={"rows": model.rows, "measured": list(measured), "missing": lacking},
    )


def _table(rows: Sequence[NoiseRow], marks: dict[str, str]) -> Table:
    columns = [
        Column(title="recipe"),
        Column(title="metric"),
        Column(title="GPU", stacked=True),
        Column(title="variance"),
        number("SD"),
        number("df"),
        number("predicts"),
        number("same seed", optional=True),
        number("runs", optional=True),
        Column(title="from"),
    ]
    return table(columns, [_row(row, marks) for row in rows])


def _row(row: NoiseRow, marks: dict[str, str]) -> list[Cell | str]:
    sd = format.percent(row.sd, 3) if row.metric in SPEEDS else f"{row.sd:.3g}"
    used = row.origin == "measured" and row.df >= MEASURED_DF
    return [
        row.scale,
        row.metric,
        row.gpu.removeprefix("NVIDIA "),
        row.source,
        sd,
        str(row.df),
        f"{row.known.df:.3g}",
        format.DASH if row.correlation is None else f"{row.correlation:.2f}",
        str(row.runs),
        Cell(text=row.origin + marks.get(row.note, ""), bold=used),
    ]
