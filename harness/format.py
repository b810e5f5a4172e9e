"""Durations, counts, sizes, percentages and signed numbers, as every report prints them."""

import math
from collections.abc import Sequence

DASH = "–"
MINUS = "\N{MINUS SIGN}"


def signed(text: str) -> str:
    """A formatted number with a real minus sign, and no sign before a printed zero."""
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def decimals(half_width: float | None, fewest: int, most: int) -> int:
    """Decimals that show two significant digits of an interval's half-width, within limits."""
    if half_width is None or not half_width > 0 or not math.isfinite(half_width):
        return fewest
    return min(most, max(fewest, 1 - math.floor(math.log10(half_width))))


def percent(fraction: float, places: int = 1, *, sign: bool = False) -> str:
    """'6.2 %' of 0.062; with `sign` '+6.2 %'."""
    return signed(f"{100 * fraction:{'+' if sign else ''}.{places}f} %")


def short_percent(fraction: float, digits: int = 3) -> str:
    """'95 %', '97.5 %', '0.14 %': significant digits, without zeros at the end."""
    return f"{100 * fraction:.{digits}g} %"


def interval(low: str, high: str) -> str:
    """'[+0.0327, +0.0357]' from two formatted ends, whose unit is left out."""
    ends = (end.rstrip(" %MiBs") for end in (low, high))
    return f"[{', '.join(ends)}]"


def count(value: float | None, digits: int = 3) -> str:
    """Large counts: 1.38B, 25.2M, 812k, 74; `digits`: the significant ones."""
    if value is None:
        return DASH
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            rounded = float(f"{value / size:.{digits}g}")  # 1000M and not 1e+03M
            return f"{rounded:g}{suffix}".replace("-", MINUS)
    return f"{value:g}".replace("-", MINUS)


def plural(number: int, noun: str, several: str = "") -> str:
    """'1 run', '3 runs', '2 launches' (with `several`)."""
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"


def mebibytes(value: float | None) -> str:
    """'412 MiB', 'below 1 MiB' or a dash."""
    if value is None:
        return DASH
    return "below 1 MiB" if 0 < value < 2**19 else f"{value / 2**20:z,.0f} MiB"


def duration(seconds: float | None) -> str:
    """'48 s', '12.5 min', '3.04 h': seconds below two minutes, hours from two hours on."""
    if seconds is None:
        return DASH
    if seconds < 119.5:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7197 else f"{seconds / 3600:.2f} h"


def hours(seconds: float) -> str:
    """'1.65' or '0.0123': hours without their unit, as the leaderboard has them."""
    return f"{seconds / 3600:.2f}" if seconds >= 3600 else f"{seconds / 3600:.3g}"


def gpu_cost(gpu_s: float, usd_per_gpu_hour: float | None) -> str:
    """'7,200 GPU-seconds = 5.00 USD', or the time alone where no price is known."""
    text = f"{gpu_s:,.0f} GPU-seconds"
    return text if usd_per_gpu_hour is None else f"{text} = {usd(gpu_s, usd_per_gpu_hour)}"


def usd(gpu_s: float, usd_per_gpu_hour: float) -> str:
    """'5.00 USD'."""
    return f"{gpu_s / 3600 * usd_per_gpu_hour:,.2f} USD"


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a Markdown table, of escaped cells."""
    return f"| {' | '.join(cells)} |"
