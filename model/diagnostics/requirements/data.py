"""Text and tokens on the disk against what the job takes of them.

A shard that is missing or cut stops the job here instead of an hour later. Text that has yet to be
downloaded or made into tokens costs GPUs that wait, so that the hint is to prepare it before.
Text that the job would read twice is another recipe than one that reads it once. Pure functions of
what was seen (model/diagnostics/requirements/inventory.py).
"""

import math
from collections.abc import Iterator
from pathlib import Path

from model.config.derive import Derived
from model.data.published import PUBLISHED
from model.data.settings import DataSettings
from model.data.sources import PYTHON_DOCS, TRAIN
from model.diagnostics.finding import Finding, judged, of_error, told
from model.diagnostics.requirements.inventory import Inventory

PREPARE = "Run `python -m model.data prepare` with this configuration before the job starts"
SHOWN = 3


def findings(settings: DataSettings, derived: Derived, stock: Inventory) -> Iterator[Finding]:
    """Shards, downloads, how often the text is read."""
    yield _shards(stock)
    if stock.missing:
        yield _download(stock)
    if stock.cache_free_bytes is not None:
        yield _room(stock, stock.cache_free_bytes)
    if stock.train_tokens is not None and not stock.faults:
        yield _epochs(settings, derived, stock)
    if stock.validation_tokens is not None:
        yield _validation(settings, stock)


def _shards(stock: Inventory) -> Finding:
    if stock.faults:
        first = stock.faults[0]
        finding = of_error("data shards", first)
        if len(stock.faults) == 1:
            return finding
        others = ", ".join(Path(fault.path).name for fault in stock.faults[1 : 1 + SHOWN])
        got = f"{len(stock.faults)} that are not: {finding.got}; and {others}"
        return judged("data shards", ok=False, expected=first.expected, got=got, hint=first.hint)
    unmade = [file.name for file in stock.files if file.tokens is None]
    ready = stock.home is not None and stock.data_id is not None and not unmade
    counted = f"{len(stock.files)} files of {stock.source}"
    if ready:
        got = f"{counted}, as recorded; data {str(stock.data_id)[:12]}"
    elif stock.changed is not None:
        got = f"{stock.changed} changed since it was prepared"
    else:
        away = f", {len(stock.missing)} of them not here" if stock.missing else ""
        got = f"{counted}{away}, not made into tokens for this configuration yet"
    return judged(
        "data shards",
        ok=ready,
        expected="token shards of all files that the job reads, and its validation rows",
        got=got,
        hint=f"{PREPARE}, or the GPUs wait for it.",
        otherwise="warning",
    )


def _download(stock: Inventory) -> Finding:
    return judged(
        "download",
        ok=stock.unreachable is None,
        expected=f"{len(stock.missing)} files of {stock.source} to be had from {stock.address}",
        got=stock.unreachable or "it answers",
        hint=f"{PREPARE}, where there is a network; or set data.mirror, or put the files into "
        "the folder of downloads.",
    )


def _room(stock: Inventory, free_bytes: int) -> Finding:
    needed = stock.coming_bytes
    return judged(
        "room for data",
        ok=needed <= free_bytes,
        expected=f"about {needed / 1e9:,.3g} GB for downloads and their tokens",
        got=f"{free_bytes / 1e9:,.3g} GB free",
        hint="Free some space, or set data.cache_dir to another disk.",
    )


def _epochs(settings: DataSettings, derived: Derived, stock: Inventory) -> Finding:
    assert stock.train_tokens
    rows = derived.stages[-1].last_row
    taken = rows * (settings.context_tokens + 1) / (1 - (stock.lost_share or 0.0))
    epochs, training = taken / stock.train_tokens, [f for f in stock.files if f.split == TRAIN]
    cropped = "" if stock.lost_share is None else f", {stock.lost_share:.0%} of them cropped"
    there = f"{'' if stock.exact else 'about '}{stock.train_tokens:,} tokens"
    return judged(
        "epochs",
        ok=epochs <= 1,
        expected=f"text for {derived.tokens:,} tokens, each read at most once",
        got=f"{there} in {len(training)} files, read {epochs:.2f} times{cropped}",
        hint=_more_text(settings, math.ceil(epochs * len(training))),
        otherwise="warning",
    )


def _more_text(settings: DataSettings, files: int) -> str:
    published = PUBLISHED.get(settings.source)
    if published is not None and files <= published.train_files:
        return f"Set data.train_files: {files}, and some more against cropping; or train for less."
    if settings.source == PYTHON_DOCS:
        return "Take a larger data.source, climbmix for example; or train for less."
    return "Give more text, or train for less; text that is read twice is another recipe."


def _validation(settings: DataSettings, stock: Inventory) -> Finding:
    assert stock.validation_tokens is not None
    asked = settings.validation_rows * (settings.context_tokens + 1)
    expected = f"text for {settings.validation_rows:,} rows of validation"
    got = f"{stock.validation_tokens:,} tokens for {asked:,}"
    if asked <= stock.validation_tokens:
        return told("validation rows", expected=expected, got=got)
    return judged(
        "validation rows",
        ok=False,
        expected=expected,
        got=got,
        hint="Lower eval.tokens: some text counts twice.",
        otherwise="warning",
    )
