"""Stored baselines: what a configuration reached on some hardware, as replicates.

    baselines/<gpu>x<n>/<protocol>/<name>.json

A file is a list of entries and only ever grows: each entry holds the records it is made of, the
configuration to make more of them, why it was stored and by what evidence it took the place of the
one before, and a hash over all of that and the hash before. So an edit by hand shows, and so does
an entry that was taken out. The last entry is the one that counts.

After `judgement`, before `gate`. Starts nothing; reads and writes baseline files only.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import files as atomic
from harness.compare.compare import MetricResult
from harness.compare.noise_model import QUALITY, NoiseModel
from harness.config.yaml_schema import NAME
from harness.errors import HarnessError, UsageError
from harness.results.recipe import device_name, recipe_scale
from harness.results.record import Identity, Record, attempt_name

FORMAT = 1
ROOT = Path("baselines")


class BaselineError(HarnessError):
    """A baseline that is absent, damaged, edited, or of something else."""


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """By what evidence an entry took the place of the one before: the comparison, at its alpha."""

    alpha: float
    outcome: str
    metrics: list[MetricResult]


class BaselineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One distribution. `config` is complete; its seed is replaced by that of each run."""

    number: int
    why: str
    evidence: Promotion | None
    trainer: str
    config: dict[str, Any]
    commit: str | None  # of the code, where it stood in a repository without changes
    records: list[Record]
    stored_at: float
    previous: str | None
    hash: str = ""

    @property
    def identity(self) -> Identity:
        """What its records share."""
        return self.records[0].identity

    @property
    def seeds(self) -> list[int]:
        """Of the records, in order."""
        return [record.seed for record in self.records]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    format: int = FORMAT
    name: str
    gpu: str
    gpus: int
    protocol: int
    entries: list[BaselineEntry]

    @property
    def now(self) -> BaselineEntry:
        """The entry that counts."""
        return self.entries[-1]

    @property
    def place(self) -> str:
        """`<gpu>x<n>/<protocol>/<name>`: unique, and taken wherever a name is."""
        return f"{_slug(self.gpu)}x{self.gpus}/{self.protocol}/{self.name}"


# --- reading --------------------------------------------------------------------------------------


def find(root: Path, name: str) -> Baseline:
    """The baseline of that name or place. Raises BaselineError."""
    paths = [path for path in files(root) if name in (path.stem, _place_of(path, root))]
    if len(paths) == 1:
        return read(paths[0])
    known = ", ".join(_place_of(path, root) for path in paths or files(root)) or "none"
    if paths:
        raise BaselineError(
            f"baseline {name}",
            "a name that one baseline has",
            f"{len(paths)} of it: {known}",
            "Name it with its hardware and protocol, as they stand here.",
        )
    raise BaselineError(
        f"baseline {name}",
        f"a baseline under {root}",
        f"these: {known}",
        "`harness baseline record NAME --from STORE:STUDY/ARM` makes one.",
    )


def files(root: Path) -> list[Path]:
    """Every baseline file, in order; a store that lies beside them has none."""
    found = root.glob("*x[0-9]*/[0-9]*/*.json")
    return sorted(path for path in found if not path.name.startswith("."))


def _place_of(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))


def read(path: Path) -> Baseline:
    """A whole, unedited baseline. Raises BaselineError with what is wrong with it."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Baseline)
    except (OSError, msgspec.DecodeError) as error:
        raise _damaged(path, "a baseline as the harness writes it", str(error)) from error
    if found.format > FORMAT:
        raise BaselineError(
            str(path),
            f"a baseline of format {FORMAT} or older",
            f"format {found.format}",
            "It was written by a newer harness: update this one.",
        )
    if not found.entries or not all(entry.records for entry in found.entries):
        raise _damaged(path, "entries with records", "an empty baseline")
    _check_chain(path, found)
    _check_place(path, found)
    return found


def _check_chain(path: Path, found: Baseline) -> None:
    before = None
    for number, entry in enumerate(found.entries, start=1):
        if entry.hash != content_hash(entry):
            raise _damaged(
                path, f"entry {number} with the content that was stored", "an edited one"
            )
        if entry.previous != before or entry.number != number:
            raise _damaged(path, f"entry {number} after the one it was stored after", "a gap")
        before = entry.hash


def _check_place(path: Path, found: Baseline) -> None:
    place = "/".join([*path.parts[-3:-1], path.stem])
    if place != found.place:
        raise _damaged(path, f"the place of its content, {found.place}", place)


def _damaged(path: Path, expected: str, got: str) -> BaselineError:
    return BaselineError(
        str(path),
        expected,
        got,
        "Baselines are not made to be edited: restore it from git, or record a new one.",
    )


def content_hash(entry: BaselineEntry) -> str:
    """SHA-256 over everything in an entry but the hash itself, as it reads back from its file."""
    bare = msgspec.json.encode(msgspec.structs.replace(entry, hash=""))
    return atomic.digest(msgspec.to_builtins(msgspec.json.decode(bare, type=BaselineEntry)))


# --- writing --------------------------------------------------------------------------------------


def append(
    root: Path,
    name: str,
    records: Sequence[Record],
    *,
    trainer: str,
    config: dict[str, Any],
    commit: str | None,
    why: str,
    evidence: Promotion | None,
    after: Baseline | None,
) -> tuple[Baseline, Path]:
    """Adds an entry after the last one of `after`, or begins a file. Raises BaselineError."""
    first = records[0]
    gpu = device_name(first.environment) or "unknown"
    entry = BaselineEntry(
        number=len(after.entries) + 1 if after else 1,
        why=why,
        evidence=evidence,
        trainer=trainer,
        config=config,
        commit=commit,
        records=list(records),
        stored_at=time.time(),
        previous=after.now.hash if after else None,
    )
    entry = msgspec.structs.replace(entry, hash=content_hash(entry))
    made = Baseline(
        name=name,
        gpu=gpu,
        gpus=max(1, first.gpus),
        protocol=first.identity.protocol,
        entries=[*(after.entries if after else []), entry],
    )
    path = root / f"{made.place}.json"
    if after is not None and after.place != made.place:
        raise _other("place", after.place, made.place)
    if after is None and path.exists():
        raise BaselineError(
            str(path),
            "a name that is free",
            "a baseline with it",
            "`harness baseline accept` adds to it; or choose another name.",
        )
    atomic.write_bytes(path, msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    return made, path


def check_name(name: str) -> None:
    """Raises UsageError for a name that cannot be a file's."""
    if not NAME.fullmatch(name):
        raise UsageError(
            "NAME",
            "letters, digits, dots, dashes and underscores",
            repr(name),
            "Such as d8-speedrun.",
        )


def check_records(records: Sequence[Record], noise_model: NoiseModel) -> None:
    """Whether records make a distribution. Raises BaselineError with the field that keeps them.

    One alone does where the noise model knows how much such runs differ.
    """
    whole = [record for record in records if record.status == "completed"]
    if not whole or len(whole) < len(records):
        raise BaselineError(
            "status",
            "completed runs",
            ", ".join(record.status for record in records) or "no run",
            "Make the others again with `harness study --rerun`, or leave them out.",
        )
    for field, values in _kept_equal(whole).items():
        if len(set(values)) > 1:
            raise BaselineError(
                field,
                "replicates of one configuration on one kind of machine",
                " and ".join(sorted(set(values))),
                "Record them under a name each.",
            )
    if not any(_finite(whole, metric) for metric in QUALITY):
        raise BaselineError(
            "metrics",
            f"at least one of {', '.join(QUALITY)} in every run",
            ", ".join(sorted(_measured(whole))) or "none",
            "See the runs' reasons: a metric that is not a number is not recorded.",
        )
    if len(whole) == 1 and not _noise_known(whole[0], noise_model):
        raise BaselineError(
            "n",
            "two runs at least, or a noise noise model that knows this recipe",
            f"one run, and no row for {recipe_scale(whole[0]) or 'it'}",
            "Make replicates: a baseline is a distribution. `harness noise` shows the rows.",
        )


def _kept_equal(records: Sequence[Record]) -> dict[str, list[str]]:
    return {
        "trainer": [record.trainer for record in records],
        "config_id": [record.identity.config_id for record in records],
        "code_id": [record.identity.code_id for record in records],
        "data_id": [str(record.identity.data_id) for record in records],
        "protocol": [str(record.identity.protocol) for record in records],
        "gpu": [device_name(record.environment) or "unknown" for record in records],
        "gpus": [str(record.gpus) for record in records],
        "core": [str(record.core) for record in records],
    }


def _finite(records: Sequence[Record], metric: str) -> bool:
    return all(record.metrics.get(metric) is not None for record in records)


def _measured(records: Sequence[Record]) -> set[str]:
    return {name for record in records for name, value in record.metrics.items() if value}


def _noise_known(record: Record, noise_model: NoiseModel) -> bool:
    scale, gpu = recipe_scale(record), device_name(record.environment)
    return any(
        noise_model.find(scale, metric, gpu, source) is not None
        for metric in ("val_bpb", "val_loss")
        for source in ("seed", "nondeterminism")
    )


# --- may it be compared ---------------------------------------------------------------------------


def refuse_foreign(baseline: Baseline, identity: Identity, own_settings: bool) -> None:
    """Raises BaselineError unless a candidate measures what the baseline measured.

    `own_settings`: the candidate was given settings of its own, so its configuration may differ.
    """
    entry = baseline.now
    for field in ("protocol", "data_id", *(() if own_settings else ("config_id",))):
        stored, own = getattr(entry.identity, field), getattr(identity, field)
        if stored != own:
            raise _other(field, stored, own)


def refuse_other_machine(baseline: Baseline, record: Record) -> None:
    """Raises BaselineError where a candidate ran on other hardware."""
    gpu = device_name(record.environment)
    if gpu is not None and gpu != baseline.gpu:
        raise _other("gpu", baseline.gpu, gpu)
    if max(1, record.gpus) != baseline.gpus:
        raise _other("gpus", baseline.gpus, record.gpus)


def _other(field: str, stored: object, own: object) -> BaselineError:
    return BaselineError(
        field,
        f"{stored}, as the baseline has it",
        str(own),
        "What was measured is not the same: record a baseline for this, under its own key.",
    )


def refuse_stale(records: Sequence[Record], baseline: Baseline, spent: Sequence[str]) -> None:
    """Raises BaselineError where records are the baseline's own, or have chosen the candidate.

    The best of several candidates looks better than it is in the very runs that made it the best.
    """
    own = {attempt_name(record) for entry in baseline.entries for record in entry.records}
    for names, what in ((own, "the baseline's own"), (set(spent), "behind a gate's verdict")):
        stale = [record for record in records if attempt_name(record) in names]
        if stale:
            seeds = ", ".join(str(record.seed) for record in stale)
            raise BaselineError(
                "records",
                "fresh replicates",
                f"{len(stale)} that are {what} (seeds {seeds})",
                "Make new ones on other seeds: `harness baseline accept NAME --seeds ...`.",
            )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"
