"""The table of tricks: what each one costs or saves in time a token, with its interval.

Rows in, text out: for the terminal, and as Markdown for docs/gpu.md. Every row rests on one launch,
which is a screening and no decision. Its interval includes the spread between launches where the
noise model has it; otherwise it is the interval of the segments of this launch, labelled so.
"""

import math
from dataclasses import dataclass

from benchmarks.speed.ab import ALPHA, compare
from benchmarks.speed.toggles.rows import Noise, Row, Rows
from harness.stats.ab_noise import summarize_launches
from harness.stats.decision import KnownSd
from harness.stats.distributions import t_quantile

MOST_LOADER_SHARE = 0.001  # above it a speed measures the host more than the trainer
HEADS = ("trick", "in the base", "tokens/s without", "with", "time a token with it", "notes")


@dataclass(frozen=True, kw_only=True)
class Effect:
    """ln(seconds a token) with the trick minus without; limits are NaN where nothing is known."""

    log_ratio: float
    low: float
    high: float


def effect(row: Row, noise: Noise | None) -> Effect:
    """What the trick does, whichever of the two sides has it. The row has at least one window."""
    if noise is None:
        inside = compare([row.ratios])
        middle, half = inside.log_ratio, (inside.high - inside.low) / 2
    else:
        found = summarize_launches([row.ratios], KnownSd(sd=noise.sd, df=noise.df)).contrast
        middle, half = found.estimate, t_quantile(1 - ALPHA / 2, found.df) * found.se
    with_it = -middle if row.on_in_base else middle
    return Effect(log_ratio=with_it, low=with_it - half, high=with_it + half)


def terminal(rows: Rows) -> str:
    """The table in columns, and under it what a reader has to know."""
    lines = [list(HEADS), *(_cells(row, rows.noise) for row in rows.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([_setting(rows), "", *table, "", *_notes(rows)])


def markdown(rows: Rows) -> str:
    """The same for a page."""
    lines = [list(HEADS), ["---"] * len(HEADS)]
    lines += [_cells(row, rows.noise) for row in rows.rows]
    table = [f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines]
    return "\n".join([_setting(rows) + "\n", *table, "", *_notes(rows)])


def _setting(rows: Rows) -> str:
    session = rows.session
    batches = "the same batch at every step" if session.synthetic else "batches from the loader"
    command = " ".join([session.base, *(f"--set {text}" for text in session.set)])
    return (
        f"`{command}` on one {session.device}, torch {session.torch}, "
        f"{session.batch_tokens:,} tokens a step, {batches}."
    )


def _cells(row: Row, noise: Noise | None) -> list[str]:
    first = [row.name, "on" if row.on_in_base else "off"]
    if row.failed is not None or row.tokens_per_s is None:
        return [*first, "–", "–", "–", f"not measured: {row.failed}"]
    speeds = row.tokens_per_s[::-1] if row.on_in_base else row.tokens_per_s
    shown = [f"{speed:,.0f}" for speed in speeds]
    return [*first, *shown, effect_text(row, noise), "; ".join(_remarks(row))]


def effect_text(row: Row, noise: Noise | None) -> str:
    """A measured row's effect in per cent, with the interval where there is one."""
    found = effect(row, noise)
    middle = f"{100 * math.expm1(found.log_ratio):+.2f} %"
    if math.isnan(found.low):
        return f"{middle}, no interval"
    low, high = (100 * math.expm1(limit) for limit in (found.low, found.high))
    return f"{middle} [{low:+.2f}, {high:+.2f}]"


def _remarks(row: Row) -> list[str]:
    """What else differs between the two, and what makes a row doubtful."""
    found = []
    for state, word in ((True, "on"), (False, "off")):
        along = [name for name, on in row.also.items() if on == state]
        found += [f"{', '.join(along)} {word} too"] * bool(along)
    for place, (base, toggle) in row.kernels.items():
        found.append(f"{place}: {base or 'none'} in the base, {toggle or 'none'} here")
    if row.loader_wait_share is not None and max(row.loader_wait_share) > MOST_LOADER_SHARE:
        found.append(f"waited {100 * max(row.loader_wait_share):.2f} % of its time for the loader")
    if row.left_out:
        found.append(f"{row.left_out} windows left out: something was compiled")
    return found


def _notes(rows: Rows) -> list[str]:
    """How the intervals are made, and what is missing."""
    noise, level = rows.noise, f"{100 * (1 - ALPHA):.0f} %"
    if noise is None:
        kind = "hold for the windows of that launch alone; another launch may differ by more"
    else:
        kind = f"count an s_launch of {100 * noise.sd:.3f} % ({noise.df:g} df, {noise.origin})"
    found = [
        f"One launch a row, {rows.session.seconds:g} s of ABBA segments: a screening. "
        f"Intervals of {level} {kind}. "
        "They are not corrected for the number of rows. Slower is positive. "
        "Schedules are held at their first step where a row names no steps."
    ]
    if rows.unmeasured:
        found += ["", f"Not measured ({len(rows.unmeasured)}): {'; '.join(rows.unmeasured)}."]
    return found
