"""forecast.html and the page of a job: one file that opens without a network.

The row first, where there is one: it is the answer; then what was forecast and the fits that it
came from; then the loss inside its band. Needs the extra `report`. Made of report/'s pieces; takes
what was found, returns the page.
"""

from collections.abc import Sequence
from html import escape

from harness.full.cost import Cost
from harness.full.forecast import Estimate, Forecast
from harness.full.leaderboard import COLUMNS, LeaderboardEntry, behind, cells
from harness.full.loss_envelope import LossEnvelope
from harness.report.full import charts
from harness.report.study.markup import bullets, chart, document, table

READING = [
    "A forecast averages over every law that the sizes allow, each with the weight that they give "
    "it; the interval is for one run, and a run lies on either side of it equally rarely.",
    "CORE is forecast over val_bpb, with all that is not known of the target's val_bpb.",
    "The band is for a whole run: the rate of a false alarm is shared over all of its looks.",
    "Time without steps 0 to 10 is what nanochat's leaderboard counts.",
]


def page(
    name: str,
    forecast: Forecast,
    *,
    cost: Cost | None = None,
    row: LeaderboardEntry | None = None,
    band: LossEnvelope | None = None,
    points: Sequence[tuple[float, float]] = (),
) -> str:
    """The HTML document; `points` are those of the job's loss curve."""
    sections = [
        f"<h1>{escape(name)}: a full job</h1>",
        _row(row) if row is not None else "",
        _forecast(forecast, cost, row),
        *(_fits(forecast, row)),
        _band(band, points) if band is not None else "",
        f"<section><h2>How the numbers are made</h2>{bullets(READING)}</section>",
    ]
    return document(f"{name}: full job", [section for section in sections if section])


def _row(row: LeaderboardEntry) -> str:
    cellular = [[escape(cell) for cell in cells(row)]]
    return f"<section><h2>The row</h2>{table(COLUMNS, cellular)}{bullets(behind(row))}</section>"


def _forecast(forecast: Forecast, cost: Cost | None, row: LeaderboardEntry | None) -> str:
    """Everything that was forecast, with what it came to beside it."""
    rows = [
        ["val_bpb", *_cells(forecast.val_bpb, ".4f", row.val_bpb if row else None)],
        *(
            [name, *_cells(found, ".4f", getattr(row, name) if row else None)]
            for name in ("core", "core_soft")
            if (found := getattr(forecast, name)) is not None
        ),
    ]
    if cost is not None:
        rows.append(
            ["training time, s", *_cells(cost.field_s, ",.0f", row.train_s if row else None)]
        )
        rows.append(["start to end, s", *_cells(cost.wall_s, ",.0f", row.wall_s if row else None)])
        if cost.usd is not None:
            rows.append(["USD", *_cells(cost.usd, ",.2f", row.usd if row else None)])
    chance = (
        f"<p>P(CORE &gt; {forecast.core_target:g}) = {forecast.p_core:.2f}</p>"
        if forecast.p_core is not None
        else ""
    )
    notes = [*forecast.notes, *(cost.notes if cost is not None else [])]
    head = ("", "forecast", "interval", "came to")
    return f"<section><h2>The forecast</h2>{table(head, rows)}{chance}{bullets(notes)}</section>"


def _cells(found: Estimate, form: str, got: float | None) -> list[str]:
    interval = f"{found.low:{form}} to {found.high:{form}}"
    return [f"{found.estimate:{form}}", interval, "–" if got is None else f"{got:{form}}"]


def _fits(forecast: Forecast, row: LeaderboardEntry | None) -> list[str]:
    return [
        f"<section><h2>{fitted.metric}</h2><p>{escape(fitted.law)}</p>"
        + chart(
            charts.law(
                fitted,
                getattr(forecast, fitted.metric),
                getattr(row, fitted.metric) if row else None,
            )
        )
        + "</section>"
        for fitted in forecast.fits
    ]


def _band(band: LossEnvelope, points: Sequence[tuple[float, float]]) -> str:
    return f"<section><h2>The loss on its way</h2>{chart(charts.loss(band, points))}</section>"
