"""Compares the text and tokens on disk with those that the job takes.

A missing or truncated shard is found here, not an hour later. Text that is not downloaded or
tokenized makes GPUs wait, so the hint is to prepare it first. Reading text twice changes the
recipe. Pure functions of the inventory (model/diagnostics/requirements/inventory.py).
"""

import math
from collections.abc import Iterator
from pathlib import Path

from model.config.derive import Derived
from model.data.published import PUBLISHED
from model.data.settings import DataSettings
from model.data.sources import PYTHON_DOCS, TRAIN
from model.diagnostics.finding import Finding, check, from_error, info
from model.diagnostics.requirements.inventory import Inventory

PREPARE = "Run `python -m model.data prepare` with this configuration before the job starts"
SHOWN = 3


def findings(settings: DataSettings, derived: Derived, inventory: Inventory) -> Iterator[Finding]:
    yield _shards(inventory)
    if inventory.missing:
        yield _download(inventory)
    if inventory.cache_free_bytes is not None:
        yield _room(inventory, inventory.cache_free_bytes)
    if inventory.train_tokens is not None and not inventory.faults:
        yield _epochs(settings, derived, inventory)
    if inventory.validation_tokens is not None:
        yield _validation(settings, inventory)


def _shards(inventory: Inventory) -> Finding:
    if inventory.faults:
        first = inventory.faults[0]
        finding = from_error("data shards", first)
        if len(inventory.faults) == 1:
            return finding
        others = ", ".join(Path(fault.path).name for fault in inventory.faults[1 : 1 + SHOWN])
        got = f"{len(inventory.faults)} faulty: {finding.got}; and {others}"
        return check("data shards", ok=False, expected=first.expected, got=got, hint=first.hint)
    unmade = [file.name for file in inventory.files if file.tokens is None]
    ready = inventory.home is not None and inventory.data_id is not None and not unmade
    counted = f"{len(inventory.files)} files of {inventory.source}"
    if ready:
        got = f"{counted}, as recorded; data {str(inventory.data_id)[:12]}"
    elif inventory.changed is not None:
        got = f"{inventory.changed} changed since it was prepared"
    else:
        missing = f", {len(inventory.missing)} of them missing" if inventory.missing else ""
        got = f"{counted}{missing}, not tokenized for this configuration yet"
    return check(
        "data shards",
        ok=ready,
        expected="token shards of all files that the job reads, and its validation rows",
        got=got,
        hint=f"{PREPARE}, or the GPUs wait for it.",
        otherwise="warning",
    )


def _download(inventory: Inventory) -> Finding:
    return check(
        "download",
        ok=inventory.unreachable is None,
        expected=f"{len(inventory.missing)} files of {inventory.source} from {inventory.address}",
        got=inventory.unreachable or "it responds",
        hint=f"{PREPARE}, where available is a network; or set data.mirror, or put the files into "
        "the folder of downloads.",
    )


def _room(inventory: Inventory, free_bytes: int) -> Finding:
    needed = inventory.coming_bytes
    return check(
        "room for data",
        ok=needed <= free_bytes,
        expected=f"about {needed / 1e9:,.3g} GB for downloads and their tokens",
        got=f"{free_bytes / 1e9:,.3g} GB free",
        hint="Free some space, or set data.cache_dir to another disk.",
    )


def _epochs(settings: DataSettings, derived: Derived, inventory: Inventory) -> Finding:
    assert inventory.train_tokens
    rows = derived.stages[-1].last_row
    taken = rows * (settings.context_tokens + 1) / (1 - (inventory.lost_share or 0.0))
    epochs, training = (
        taken / inventory.train_tokens,
        [f for f in inventory.files if f.split == TRAIN],
    )
    cropped = (
        "" if inventory.lost_share is None else f", {inventory.lost_share:.0%} of them cropped"
    )
    available = f"{'' if inventory.exact else 'about '}{inventory.train_tokens:,} tokens"
    return check(
        "epochs",
        ok=epochs <= 1,
        expected=f"text for {derived.tokens:,} tokens, each read at most once",
        got=f"{available} in {len(training)} files, read {epochs:.2f} times{cropped}",
        hint=_more_text(settings, math.ceil(epochs * len(training))),
        otherwise="warning",
    )


def _more_text(settings: DataSettings, files: int) -> str:
    published = PUBLISHED.get(settings.source)
    if published is not None and files <= published.train_files:
        return f"Set data.train_files: {files}, or more to allow for cropping; or train for less."
    if settings.source == PYTHON_DOCS:
        return "Use a larger data.source, climbmix for example; or train for less."
    return "Add text, or train for less; reading text twice changes the recipe."


def _validation(settings: DataSettings, inventory: Inventory) -> Finding:
    assert inventory.validation_tokens is not None
    needed = settings.validation_rows * (settings.context_tokens + 1)
    expected = f"text for {settings.validation_rows:,} rows of validation"
    got = f"{inventory.validation_tokens:,} tokens for {needed:,}"
    if needed <= inventory.validation_tokens:
        return info("validation rows", expected=expected, got=got)
    return check(
        "validation rows",
        ok=False,
        expected=expected,
        got=got,
        hint="Lower eval.tokens: some text would count twice.",
        otherwise="warning",
    )
