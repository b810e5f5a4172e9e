"""Reads the runs of both sides of a comparison.

A path names a log, a table, a folder of logs or of tables, a record, a run directory, a store,
`STORE:STUDY/ARM`, or one attempt in a store, `STORE#PLAN_ID/ATTEMPT`.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from harness.errors import UsageError
from harness.format import plural
from harness.results.logs import from_store, modded_nanogpt, nanochat, regex, tables, text
from harness.results.logs.run_log import LogError, LoggedRun, NotALog
from harness.results.record import Record
from harness.results.store import Store

MEMBER = "#"  # between the name of a store's arm and a run of it
LOG_SUFFIXES = (".txt", ".log", ".out", ".stdout")
MARKS = f"{nanochat.MARKS}|{modded_nanogpt.MARKS}"
STEP = re.compile(f"\n(?:{nanochat.STEP}|{modded_nanogpt.STEP})(\\d{{1,9}})")
AFTER_STEPS = re.compile(f"\n(?:{nanochat.AFTER_STEPS}|{modded_nanogpt.AFTER_STEPS})")
IDENTIFYING_CHARACTERS = 1000  # two logs of fewer may be equal by chance
Reader = Callable[[str, str], list[LoggedRun]]
READERS: dict[str, tuple[Callable[[str], bool], Reader]] = {
    nanochat.FAMILY: (nanochat.recognises, nanochat.read),
    modded_nanogpt.FAMILY: (modded_nanogpt.recognises, modded_nanogpt.read),
}


class _SourceRecord(NamedTuple):
    """A record, the argument that named it, its core.parquet, and the store that it is in."""

    record: Record
    source: str
    answers: Path | None
    store: Path | None


class _PathRuns(NamedTuple):
    """What one path contains: runs of text logs, records, and all records of their store."""

    runs: list[LoggedRun]
    records: list[_SourceRecord]
    of_store: list[Record]


def read_sides(
    a: list[str], b: list[str], patterns: regex.Patterns
) -> tuple[list[LoggedRun], list[LoggedRun]]:
    """The runs of both sides. Raises LogError and UsageError."""
    _check_distinct(a, b)
    stores: dict[Path, list[Record]] = {}
    sides = [[_read(path, patterns, stores) for path in paths] for paths in (a, b)]
    records = {
        _key(record): record
        for side in sides
        for part in side
        for record in [*part.of_store, *(one.record for one in part.records)]
    }
    session = from_store.session_numbers(list(records.values()))

    def runs_of(part: _PathRuns) -> list[LoggedRun]:
        logged = (
            from_store.logged_run(
                one.record, session[_key(one.record)], one.source, one.answers, one.store
            )
            for one in part.records
        )
        return [*part.runs, *logged]

    first, second = ([run for part in side for run in runs_of(part)] for side in sides)
    return first, second


def _key(record: Record) -> from_store.Key:
    return record.plan_id, record.attempt


def _check_distinct(a: list[str], b: list[str]) -> None:
    seen: dict[str, str] = {}
    for side, paths in (("A", a), ("B", b)):
        for path in paths:
            resolved = str(Path(path).resolve())
            if other := seen.get(resolved):
                raise UsageError(
                    path,
                    "each run once, on one side",
                    f"it on side {other} and on side {side}"
                    if other != side
                    else f"it twice on side {side}",
                    "A run is not a replicate of itself: name it once.",
                )
            seen[resolved] = side


def _read(argument: str, patterns: regex.Patterns, stores: dict[Path, list[Record]]) -> _PathRuns:
    """The runs of one path; `stores` caches the records of each store."""
    path = Path(argument)
    if not path.exists():
        root, member, plan = argument.rpartition(MEMBER)
        if member and from_store.is_store(Path(root)):
            of_store = _records_of(Path(root), stores)
            records = from_store.attempt_records(plan, of_store)
            return _from_records(Path(root), records, of_store, root)
        root, colon, study = argument.rpartition(":")
        if colon and from_store.is_store(Path(root)):
            of_store = _records_of(Path(root), stores)
            records = from_store.study_arm_records(Path(root), study, of_store)
            return _from_records(Path(root), records, of_store, argument)
        raise UsageError(
            argument,
            "a log, a folder of logs, a run directory, a record or a store",
            "no such file",
            "An arm of a study is written STORE:STUDY/ARM.",
        )
    if from_store.is_store(path):
        of_store = _records_of(path, stores)
        return _from_records(path, from_store.store_records(path, of_store), of_store, argument)
    if path.is_dir():
        return _read_folder(path, patterns)
    return _read_file(path, patterns)


def _read_folder(path: Path, patterns: regex.Patterns) -> _PathRuns:
    if from_store.is_run_dir(path):
        record = from_store.record_from_run_dir(path)
        answers = from_store.core_path_of_run_dir(path, record)
        store = from_store.store_around(path, 2)
        return _PathRuns([], [_SourceRecord(record, str(path), answers, store)], [])
    runs, skipped = _read_files(path, LOG_SUFFIXES, patterns)
    if not runs:  # a table beside logs is often a copy of their numbers
        runs, more = _read_files(path, tables.SUFFIXES, patterns)
        skipped += more
    if not runs:
        suffixes = ", ".join((*LOG_SUFFIXES, *tables.SUFFIXES))
        raise LogError(
            str(path),
            "a folder with logs or tables of runs, a run directory, or a store",
            f"no run in {plural(len(skipped), 'file')}: {skipped[0]}"
            if skipped
            else f"no file that ends with one of {suffixes}",
            "Name the files themselves.",
        )
    if skipped:
        warnings = [*runs[0].warnings, *(f"skipped {reason}" for reason in skipped)]
        runs[0] = msgspec.structs.replace(runs[0], warnings=warnings)
    return _PathRuns(runs, [], [])


def _read_files(
    folder: Path, suffixes: tuple[str, ...], patterns: regex.Patterns
) -> tuple[list[LoggedRun], list[str]]:
    """The runs of the files of a folder, and why files were skipped: they are no logs."""
    runs: list[LoggedRun] = []
    skipped = []
    for file in sorted(file for file in folder.rglob("*") if text.suffix(file) in suffixes):
        try:
            part = _read_file(file, patterns)
        except NotALog as error:
            skipped.append(f"{error.path}: {error.got}")
        else:
            runs += part.runs
    return runs, skipped


def _records_of(root: Path, stores: dict[Path, list[Record]]) -> list[Record]:
    if root not in stores:
        stores[root] = Store(root).records()
    return stores[root]


def _from_records(
    root: Path, records: list[Record], of_store: list[Record], argument: str
) -> _PathRuns:
    if not records:
        raise LogError(
            argument,
            "at least one record",
            "none",
            "Run it first, with `harness study` or `harness run`.",
        )
    named = [
        _SourceRecord(
            record,
            f"{argument}{MEMBER}{record.plan_id[:8]}",
            from_store.core_path_of_store(root, record),
            root.resolve(),
        )
        for record in records
    ]
    return _PathRuns([], named, of_store)


def _read_file(path: Path, patterns: regex.Patterns) -> _PathRuns:
    if text.suffix(path) in tables.SUFFIXES:
        content = text.read_table(path)
        _check_not_empty(path, content)
        if path.suffix == ".json" and tables.is_record(content):
            record, answers = from_store.record_from_file(path), from_store.core_path_of_file(path)
            store = from_store.store_around(path, 1)
            return _PathRuns([], [_SourceRecord(record, str(path), answers, store)], [])
        return _PathRuns(tables.read(path, content), [], [])
    others = [AFTER_STEPS, *(one for pattern in patterns.values() for one in pattern)]
    content = text.read_log(path, text.LogLines(STEP, others, MARKS))
    _check_not_empty(path, content)
    runs = _read_log(content, path, patterns)
    if len(runs) == 1 and len(content) >= IDENTIFYING_CHARACTERS:
        content_id = hashlib.sha256(content.encode(errors="replace")).hexdigest()
        runs = [msgspec.structs.replace(runs[0], content_id=content_id)]
    return _PathRuns(runs, [], [])


def _check_not_empty(path: Path, content: str) -> None:
    if not content.strip():
        raise NotALog(
            str(path),
            "the log of a training run",
            "an empty file",
            "Leave it out, or find out why nothing was logged.",
        )


def _read_log(content: str, path: Path, patterns: regex.Patterns) -> list[LoggedRun]:
    for family, (recognises, read) in READERS.items():
        if recognises(content):
            if runs := read(content, str(path)):
                return _with_patterns(runs, content, patterns)
            raise LogError(
                str(path),
                f"at least one evaluation, as {family} prints them",
                "training steps only",
                "Leave it out, or read another number of it with --regex NAME=PATTERN.",
            )
    if runs := regex.read(content, str(path), patterns):
        return runs
    no_match = f", and no match of {', '.join(patterns)}" if patterns else ""
    raise NotALog(
        str(path),
        f"a log of {' or '.join(READERS)}, or one that --regex can read",
        f"another format{no_match}",
        f"Describe its format, such as --regex 'val_loss=val loss {regex.TOKEN}'.",
    )


def _with_patterns(
    runs: list[LoggedRun], content: str, patterns: regex.Patterns
) -> list[LoggedRun]:
    """The runs of a file with what patterns read. Raises LogError for several runs."""
    more = regex.read_metrics(content, patterns)
    if not more.metrics and not more.ending:
        return runs
    if len(runs) > 1:
        raise LogError(
            runs[0].source,
            "one run in a file that --regex reads",
            f"{len(runs)} runs",
            "Split it, one file a run.",
        )
    run = runs[0]
    return [
        msgspec.structs.replace(
            run,
            metrics=run.metrics | more.metrics,
            ending=run.ending or more.ending,
            diverged=run.diverged or more.diverged,
        )
    ]
