"""Paths of two sides -> their runs. The one place that knows all readers.

A path is a log, a folder of logs, a record, a run directory, a store, or `STORE:STUDY/ARM`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from harness.errors import UsageError
from harness.results.logs import from_store, modded_nanogpt, nanochat, regex
from harness.results.logs.run_log import LogError, LoggedRun, strip_colors
from harness.results.record import Record
from harness.results.store import Store

MEMBER = "#"  # between a store's arm and one run of it
LOG_SUFFIXES = (".txt", ".log", ".out")
Reader = Callable[[str, str], list[LoggedRun]]
READERS: dict[str, tuple[Callable[[str], bool], Reader]] = {
    nanochat.FAMILY: (nanochat.recognises, nanochat.read),
    modded_nanogpt.FAMILY: (modded_nanogpt.recognises, modded_nanogpt.read),
}


class _Kept(NamedTuple):
    """A record, the words that named it, and where its outcomes of CORE are."""

    record: Record
    source: str
    answers: Path | None


class _Found(NamedTuple):
    """What one path holds: runs of text logs, records, and all records of the stores behind."""

    runs: list[LoggedRun]
    records: list[_Kept]
    beside: list[Record]


def read_sides(
    a: list[str], b: list[str], patterns: regex.Patterns
) -> tuple[list[LoggedRun], list[LoggedRun]]:
    """The runs of both sides. Raises LogError and UsageError."""
    _refuse_doubles(a, b)
    stores: dict[Path, list[Record]] = {}
    sides = [[_read(path, patterns, stores) for path in paths] for paths in (a, b)]
    every = [found for side in sides for found in side]
    at_hand = {
        _key(record): record
        for found in every
        for record in [*found.beside, *(kept.record for kept in found.records)]
    }
    session = from_store.session_numbers(list(at_hand.values()))
    first, second = (
        [
            run
            for found in side
            for run in [
                *found.runs,
                *(
                    from_store.logged_run(kept.record, session[_key(kept.record)], *kept[1:])
                    for kept in found.records
                ),
            ]
        ]
        for side in sides
    )
    return first, second


def _key(record: Record) -> from_store.Key:
    return record.plan_id, record.attempt


def _refuse_doubles(a: list[str], b: list[str]) -> None:
    seen: dict[str, str] = {}
    for side, paths in (("A", a), ("B", b)):
        for path in paths:
            place = str(Path(path).resolve())
            if place in seen:
                raise UsageError(
                    path,
                    "each run once, on one side",
                    f"it on side {seen[place]} and on side {side}"
                    if seen[place] != side
                    else f"it twice on side {side}",
                    "A run is not a replicate of itself: name it once.",
                )
            seen[place] = side


def _read(word: str, patterns: regex.Patterns, stores: dict[Path, list[Record]]) -> _Found:
    """One path; `stores` keeps the records of each store, which are many, from path to path."""
    path = Path(word)
    if not path.exists():
        root, colon, study = word.rpartition(":")
        if colon and from_store.is_store(Path(root)):
            beside = _records_of(Path(root), stores)
            return _records(
                Path(root), from_store.study_arm_records(Path(root), study, beside), beside, word
            )
        raise UsageError(
            word,
            "a log, a folder of logs, a run directory, a record or a store",
            "no such file",
            "A study's arm is written STORE:STUDY/ARM.",
        )
    if from_store.is_store(path):
        beside = _records_of(path, stores)
        return _records(path, from_store.store_records(path, beside), beside, word)
    if path.is_dir():
        return _read_folder(path, patterns)
    return _read_file(path, patterns)


def _read_folder(path: Path, patterns: regex.Patterns) -> _Found:
    if from_store.is_run_dir(path):
        record = from_store.record_from_run_dir(path)
        kept = _Kept(record, str(path), from_store.core_path_of_run_dir(path, record))
        return _Found([], [kept], [])
    files = sorted(file for file in path.rglob("*") if file.suffix in LOG_SUFFIXES)
    if not files:
        raise LogError(
            str(path),
            "a folder with logs, or a run directory, or a store",
            f"no file that ends with {' or '.join(LOG_SUFFIXES)}",
            "Name the files themselves.",
        )
    found = [_read_file(file, patterns) for file in files]
    return _Found([run for part in found for run in part.runs], [], [])


def _records_of(root: Path, stores: dict[Path, list[Record]]) -> list[Record]:
    if root not in stores:
        stores[root] = Store(root).records()
    return stores[root]


def _records(root: Path, found: list[Record], beside: list[Record], word: str) -> _Found:
    if not found:
        raise LogError(
            word,
            "at least one record",
            "none",
            "Make the runs first: `harness study`, `harness run`.",
        )
    kept = [
        _Kept(
            record,
            f"{word}{MEMBER}{record.plan_id[:8]}",
            from_store.core_path_of_store(root, record),
        )
        for record in found
    ]
    return _Found([], kept, beside)


def _read_file(path: Path, patterns: regex.Patterns) -> _Found:
    if path.suffix == ".json":
        kept = _Kept(
            from_store.record_from_file(path), str(path), from_store.core_path_of_file(path)
        )
        return _Found([], [kept], [])
    try:
        text = strip_colors(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise LogError(
            str(path),
            "a file that can be read",
            str(error.strerror).lower(),
            "Check its permissions.",
        ) from error
    if not text.strip():
        raise LogError(
            str(path),
            "the log of a training run",
            "an empty file",
            "Leave it out, or find out why nothing was written.",
        )
    return _Found(_read_text(text, path, patterns), [], [])


def _read_text(text: str, path: Path, patterns: regex.Patterns) -> list[LoggedRun]:
    for family, (recognises, read) in READERS.items():
        if recognises(text):
            runs = read(text, str(path))
            if runs:
                return [_with_patterns(run, text, patterns) for run in runs]
            raise LogError(
                str(path),
                f"at least one evaluation, as {family} prints them",
                "training steps only",
                "Leave it out, or read another of its numbers with --regex NAME=PATTERN.",
            )
    runs = regex.read(text, str(path), patterns)
    if not runs:
        known = " or ".join(READERS)
        asked = f", and no match of {', '.join(patterns)}" if patterns else ""
        raise LogError(
            str(path),
            f"a log of {known}, or one that --regex can read",
            f"another format{asked}",
            "Say how to read it, such as --regex 'val_loss=val loss ([0-9.]+)'.",
        )
    return runs


def _with_patterns(run: LoggedRun, text: str, patterns: regex.Patterns) -> LoggedRun:
    more = regex.metrics(text, patterns)
    return msgspec.structs.replace(run, metrics=run.metrics | more) if more else run
