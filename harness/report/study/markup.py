"""Pieces of HTML that every report is made of: the document around it, charts, tables, bullets.

One file that opens without a network: plotly's script stands in it, and a content security policy
forbids the page any request. Text in, markup out; what stands in a report is decided elsewhere.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from harness.report.study.html_style import POLICY, SCRIPT, STYLE

GRID = "rgba(128,128,128,0.25)"
ZERO = "rgba(128,128,128,0.9)"


def document(title: str, sections: Iterable[str]) -> str:
    """The whole page around its sections, which are markup already."""
    from plotly.offline import get_plotlyjs

    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f"<script>{get_plotlyjs()}</script></head><body><main>",
            *sections,
            f"</main><script>{SCRIPT}</script></body></html>",
        ]
    )


def chart(figure: Any) -> str:
    """A plotly figure."""
    import plotly.io

    markup: str = plotly.io.to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        config={"displayModeBar": False, "responsive": True, "plotlyServerURL": ""},
    )
    return f'<div class="chart">{markup}</div>'


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    head: bool = True,
    kind: str = "plain",
) -> str:
    """A table; cells are markup already, headings are not."""
    top = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="wide"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def folded(summary: str, body: str) -> str:
    """What a reader opens by a click."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences, escaped here."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def styled(figure: go.Figure, height: int) -> go.Figure:
    """A figure in the look of the page, without colours of its own for paper and text."""
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#555"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.06, "x": 0},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#888", "activecolor": "#0072B2"},
        hovermode="closest",
        bargap=0.3,
    )
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=ZERO, exponentformat="SI")
    figure.update_yaxes(gridcolor=GRID, zeroline=False)
    return figure
