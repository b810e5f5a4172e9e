"""report.html of a search: one file that opens without a network, made of report/'s pieces.

The table of the second look comes first: it is the answer; the charts are how it was reached.
Needs the extra `report`. Takes a `Found`, returns the page.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from harness.report.search import charts, terminal
from harness.report.study.markup import bullets, chart, document, folded, table
from harness.report.study.progress import cost
from harness.search.results import SearchResult

if TYPE_CHECKING:
    import plotly.graph_objects as go

READING = [
    "Trials ran on one seed. The best of many runs is too good: it was picked for its luck, too.",
    "shrunken: the claim times tau squared / (tau squared + its own error squared), tau being the "
    "spread of true effects over all trials of the search.",
    "held-out seeds: base and candidates again, on seeds that no choice was made on; arm minus "
    "base, with the interval corrected for all candidates together.",
    "A candidate survives where all its runs complete, and it is better than the base in one "
    "objective, beyond the noise, and worse in none.",
    "A trial that was pruned, refused by the trainer, diverged, failed or ran out of memory has no "
    "value; the sampler learns from it where not to go.",
]


def page(found: SearchResult) -> str:
    """The HTML document."""
    sections = [
        _header(found),
        _second_look(found),
        _panel("History", HISTORY, lambda: charts.history(found)),
        _drawn(found),
        _trials(found),
        f"<section><h2>How the numbers are made</h2>{bullets(READING)}</section>",
    ]
    return document(f"{found.search}: search report", sections)


HISTORY = (
    "Every trial with a value; the line is the base's mean, the band one SD of its seeds, dotted "
    "lines the trials that were confirmed."
)


def _header(found: SearchResult) -> str:
    counts = ", ".join(f"{n} {outcome}".replace("_", " ") for outcome, n in found.outcomes.items())
    price = None if found.price_usd is None or not found.gpu_s else found.price_usd / found.gpu_s
    spent = cost(found.gpu_s, None if price is None else 3600 * price)
    facts = [
        f"Search <b>{escape(found.search)}</b>",
        escape(f"{len(found.trials)} trials: {counts}"),
        escape(spent),
        *(escape(line) for line in terminal.noise_words(found.noise)),
    ]
    warned = terminal.warnings(found)
    return (
        f"<h1>{escape(found.question or 'Which settings are best?')}</h1>"
        f'<p class="facts">{" · ".join(facts)}</p>'
        f"<p><b>{escape(terminal.verdict(found))}</b></p>"
        + (f'<div class="warnings">{bullets(warned)}</div>' if warned else "")
    )


def _second_look(found: SearchResult) -> str:
    if not found.claims:
        return ""
    rows = [
        [escape(cell).replace("\n", "<br>") for cell in terminal.claim_cells(claim, name)]
        for claim in found.claims
        for name in found.objectives
    ]
    settings = [
        [str(claim.pick.number), escape(terminal.settings(claim))] for claim in found.claims
    ]
    studies = ", ".join(found.looks.values())
    note = f"Studies of their own: {studies}. " if studies else ""
    rule = f"alpha {found.alpha:g}, {found.correction}, over all candidates."
    return (
        f"<section><h2>The second look</h2><p>{escape(note + rule)}</p>"
        f"{table(terminal.COLUMNS, rows)}{table(['trial', 'settings'], settings)}</section>"
    )


def _drawn(found: SearchResult) -> str:
    """The charts that need several trials with a value."""
    if len(found.eligible()) < 2:
        return "<section><p>Too few trials with a value for charts.</p></section>"
    parts = []
    if len(found.objectives) > 1:
        text = "Trials that nothing dominates; the base with one SD of its seeds."
        parts.append(_panel("Pareto front", text, lambda: charts.front(found)))
    if found.importances:
        text = (
            "What sets the good trials apart from all others (PED-ANOVA, arXiv 2304.10255): a "
            "share of the choice, and no effect in the objective's unit."
        )
        parts.append(_panel("Importances", text, lambda: charts.importance(found)))
    text = "A line for each completed trial, by fifths of the objective: the darkest are the best."
    parts.append(_panel("Parallel coordinates", text, lambda: charts.parallel(found)))
    text = "Each parameter alone, whatever the others were; darker is later."
    parts.append(_panel("Slices", text, lambda: charts.slices(found)))
    return "".join(parts)


def _panel(title: str, text: str, draw: "Callable[[], go.Figure]") -> str:
    return f"<section><h2>{title}</h2><p>{escape(text)}</p>{chart(draw())}</section>"


def _trials(found: SearchResult) -> str:
    names = list(dict.fromkeys(name for row in found.trials for name in row.point))
    head = ["trial", "outcome", *found.objectives, *names, "steps", "wall time", "reason"]
    rows = [
        [
            str(row.number),
            escape(row.outcome.replace("_", " ") + ("" if row.feasible else ", beyond a bound")),
            *(terminal.number(v) for v in row.values or []),
            *([terminal.DASH] * (0 if row.values else len(found.objectives))),
            *(escape(terminal.setting(row.point.get(name, terminal.DASH))) for name in names),
            str(row.steps or terminal.DASH),
            "recorded" if row.recorded else f"{row.wall_s:.1f} s",
            escape(row.reason or ""),
        ]
        for row in found.trials
    ]
    body = folded(f"All {len(rows)} trials", table(head, rows))
    return f"<section><h2>Trials</h2>{body}</section>"
