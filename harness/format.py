"""Durations, counts, sizes and signed numbers as a reader sees them."""

from collections.abc import Sequence

DASH = "–"


def signed(text: str) -> str:
    """No sign before a printed zero; a real minus sign for the rest."""
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}")


def count(value: float | None) -> str:
    """Large counts: 1.38B, 25.2M, 812k, 74."""
    if value is None:
        return DASH
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}".replace("-", "\N{MINUS SIGN}")
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def mebibytes(value: float | None) -> str:
    """'412 MiB', 'below 1 MiB' or a dash."""
    if value is None:
        return DASH
    return "below 1 MiB" if 0 < value < 2**19 else f"{value / 2**20:z,.0f} MiB"


def duration(seconds: float | None) -> str:
    """'48 s', '12.5 min', '3.04 h'."""
    if seconds is None:
        return DASH
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
