"""Renders a document as one HTML file that opens without a network.

The style stands in the file, charts are static SVG, and a content security policy forbids the page
any request. Needs jinja2; charts need matplotlib (extra `report`), and where it is missing the page
states that in their place.
"""

import importlib.util
from collections.abc import Sequence
from html import escape
from pathlib import Path

from harness.report.document import Cell, Chart, Column, Document

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
NO_CHART = "Left out: matplotlib is not installed (pip install 'speedrun-harness[report]')."


def as_html(document: Document) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    environment.globals |= {"svg": _svg, "cells": _cells}
    page = environment.get_template("page.html")
    return page.render(document=document, policy=POLICY)


def _cells(row: Sequence[Cell], columns: Sequence[Column]) -> str:
    """One row's cells as markup; in Python, because a table may have 100,000 of them."""
    from markupsafe import Markup

    made = []
    for cell, column in zip(row, columns, strict=True):
        first, *rest = escape(cell.text).split("\n")
        bold = " bold" if cell.bold else ""
        more = "".join(f'<br><span class="small">{line}</span>' for line in rest)
        made.append(f'<td class="{column.align} {cell.tone}{bold}">{first}{more}</td>')
    return Markup("".join(made))


def _svg(chart: Chart) -> str:
    """The figure as markup, or that matplotlib is missing."""
    from markupsafe import Markup

    if importlib.util.find_spec("matplotlib") is None:
        return NO_CHART
    from harness.report.chart import as_svg

    return Markup(as_svg(chart.draw()))
