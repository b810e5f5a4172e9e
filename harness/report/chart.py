"""Figures for reports, with matplotlib (extra `report`): static SVG for a page, PNG for a comment.

Nothing here uses pyplot, so no window system and no global state. Text and lines in `INK`
follow the reader's light or dark theme in a page. Every colour has a second mark beside it.
"""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1d1f23"
GRID = "#8888883f"
# Okabe and Ito's colours, which colour-blind readers can distinguish, without the faint yellow.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES = ("solid", "dashed", "dotted", "dashdot")
HELPS, HURTS, NOISE, BASE = "#0072B2", "#D55E00", "#9A9A9A", "#7A7A7A"
DPI = 150


def new_figure(width_inches: float, height_inches: float) -> "Figure":
    """An empty figure that lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def new_axes(width_inches: float, height_inches: float) -> "tuple[Figure, Axes]":
    """An empty figure with one pair of axes."""
    figure = new_figure(width_inches, height_inches)
    return figure, figure.add_subplot()


def style(axes: "Axes", *, title: str = "", x: str = "", y: str = "", grid: str = "both") -> None:
    """Titles, a faint grid along `grid` ("x", "y", "both" or "none"), no frame."""
    if title:
        axes.set_title(title, fontsize=11, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.set_axisbelow(True)
    if grid != "none":
        axes.grid(axis=grid, color=GRID)  # type: ignore[arg-type]
    axes.set_facecolor("none")
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)


def count_axis(axes: "Axes") -> None:
    """Counts along x as 10M and not as 1 under a factor of 1e7."""
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def legend(axes: "Axes", columns: int = 1) -> None:
    """A legend in the theme's colour, without a frame."""
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, ncols=columns)


def line_style(index: int) -> tuple[str, str]:
    """Colour and dash of the index-th line: 24 different ones."""
    return PALETTE[index % len(PALETTE)], DASHES[index // len(PALETTE) % len(DASHES)]


def as_svg(figure: "Figure") -> str:
    """The figure as an `<svg>` element: text stays text, equal figures give equal bytes."""
    import matplotlib

    figure.patch.set_alpha(0)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "harness"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def as_png(figure: "Figure") -> bytes:
    """The figure on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()
