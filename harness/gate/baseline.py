"""Stored baselines: the replicates of one configuration on one kind of hardware.

    baselines/<gpu>x<n>/<protocol>/<name>.json

A file is an append-only list of entries. Each entry holds its records, the configuration that makes
more of them, why it was stored, the comparison by which it replaced the previous entry, and a hash
over all of that and the previous hash: edits by hand and removed entries are detected. The last
entry is the current one. This module only reads, writes and checks baseline files.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.comparison.noise_model import NoiseModel
from harness.comparison.result import MetricResult
from harness.config.field_types import Count, ErrorRate, Moment, PositiveInt
from harness.config.yaml_schema import NAME
from harness.errors import HarnessError, UsageError
from harness.metrics import LOSSES, QUALITY
from harness.results import stored_file
from harness.results.copies import copied_seeds, describe_copies
from harness.results.recipe import device_name, recipe_scale
from harness.results.record import Identity, Record, attempt_name

FORMAT = 1
ROOT = Path("baselines")
RESTORE = "Baseline files are not to be edited: restore it from git, or record a new one."


class BaselineError(HarnessError):
    """A baseline that is missing, damaged, edited, or not comparable."""


class ReplicateSet(msgspec.Struct, frozen=True, kw_only=True):
    """Replicates of one configuration, with what is needed to make more of them."""

    records: list[Record]
    trainer: str
    config: dict[str, Any]
    commit: str | None = None


class PromotionEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison with the previous entry by which an entry replaced it."""

    alpha: ErrorRate
    outcome: str
    metrics: list[MetricResult]


class BaselineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Replicates of one configuration. `config` is complete; each run replaces its seed."""

    number: PositiveInt
    why: str
    evidence: PromotionEvidence | None
    trainer: str
    config: dict[str, Any]
    commit: str | None  # of the code; None outside a repository or with uncommitted changes
    records: list[Record]
    stored_at: Moment
    previous: str | None
    hash: str = ""

    @property
    def identity(self) -> Identity:
        """The identity that all of its records share."""
        return self.records[0].identity

    @property
    def seeds(self) -> list[int]:
        """The seeds of its records, in order."""
        return [record.seed for record in self.records]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """One baseline file."""

    format: int = FORMAT
    name: str
    gpu: str
    gpus: Count
    protocol: int
    entries: list[BaselineEntry]

    @property
    def now(self) -> BaselineEntry:
        """The current entry."""
        return self.entries[-1]

    @property
    def place(self) -> str:
        """`<gpu>x<n>/<protocol>/<name>`: the unique form of the name, accepted by every command."""
        return f"{_slug(self.gpu)}x{self.gpus}/{self.protocol}/{self.name}"


# --- reading --------------------------------------------------------------------------------------


def find(root: Path, name: str) -> Baseline:
    """The baseline of a name, or of `<gpu>x<n>/<protocol>/<name>`. Raises BaselineError."""
    paths = [path for path in list_files(root) if name in (path.stem, _place_of(path, root))]
    if len(paths) == 1:
        return read(paths[0])
    known = ", ".join(_place_of(path, root) for path in paths or list_files(root)) or "none"
    if paths:
        raise BaselineError(
            f"baseline {name}",
            "the name of one baseline",
            f"{len(paths)} baselines of that name: {known}",
            "Use one of these longer names.",
        )
    raise BaselineError(
        f"baseline {name}",
        f"a baseline under {root}",
        known,
        "Record one with `harness baseline record NAME --from STORE:STUDY/ARM`.",
    )


def list_files(root: Path) -> list[Path]:
    """Every baseline file under `root`, sorted."""
    paths = root.glob("*x[0-9]*/[0-9]*/*.json")
    return sorted(path for path in paths if not path.name.startswith("."))


def _place_of(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))


def read(path: Path) -> Baseline:
    """Reads a baseline and verifies its hashes. Raises BaselineError."""
    try:
        content = stored_file.read(path, "a baseline file", BaselineError)
    except OSError as error:
        raise _damaged(path, "a baseline file as the harness writes it", str(error)) from error
    stored = stored_file.decode(
        content,
        Baseline,
        path,
        "a baseline",
        if_damaged=RESTORE,
        if_older="Record a new baseline with `harness baseline record`, in another --baselines or "
        "by another name, or read this one with the version of the harness that wrote it.",
        error=BaselineError,
    )
    raw_entries = msgspec.json.decode(content)["entries"]
    if not stored.entries or not all(entry.records for entry in stored.entries):
        raise _damaged(path, "entries with records", "an empty baseline")
    _check_chain(path, stored, raw_entries)
    place = "/".join([*path.parts[-3:-1], path.stem])
    if place != stored.place:
        raise _damaged(path, f"the place {stored.place}, according to its content", place)
    return stored


def _check_chain(path: Path, stored: Baseline, raw_entries: list[dict[str, Any]]) -> None:
    previous = None
    for number, (entry, raw) in enumerate(zip(stored.entries, raw_entries, strict=True), start=1):
        if entry.hash != content_hash(raw):
            raise _damaged(path, f"entry {number} as it was stored", "an edited entry")
        if entry.previous != previous or entry.number != number:
            raise _damaged(path, f"entry {number} directly after the one before it", "a gap")
        previous = entry.hash


def _damaged(path: Path, expected: str, got: str) -> BaselineError:
    return BaselineError(str(path), expected, got, RESTORE)


def content_hash(raw: dict[str, Any]) -> str:
    """SHA-256 of an entry as its file has it, without its own hash.

    Of the raw JSON and not of the decoded entry, so that fields which a later version of the
    harness adds do not change it.
    """
    return files.digest({**raw, "hash": ""})


# --- writing --------------------------------------------------------------------------------------


def append(
    root: Path,
    name: str,
    replicates: ReplicateSet,
    *,
    why: str,
    evidence: PromotionEvidence | None = None,
    after: Baseline | None = None,
) -> tuple[Baseline, Path]:
    """Appends an entry to the baseline `after`, or starts a new file. Raises BaselineError."""
    first = replicates.records[0]
    entry = BaselineEntry(
        number=len(after.entries) + 1 if after else 1,
        why=why,
        evidence=evidence,
        trainer=replicates.trainer,
        config=replicates.config,
        commit=replicates.commit,
        records=replicates.records,
        stored_at=time.time(),
        previous=after.now.hash if after else None,
    )
    raw = msgspec.json.decode(msgspec.json.encode(entry))
    entry = msgspec.structs.replace(entry, hash=content_hash(raw))
    baseline = _with_entries(name, first, [*(after.entries if after else []), entry])
    path = root / f"{baseline.place}.json"
    if after is not None and after.place != baseline.place:
        raise _not_comparable("place", after.place, baseline.place)
    if after is None:
        check_unused(root, name, first)
    files.write_bytes(path, msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n")
    return baseline, path


def _with_entries(name: str, first: Record, entries: list[BaselineEntry]) -> Baseline:
    return Baseline(
        name=name,
        gpu=device_name(first.environment) or "unknown",
        gpus=max(1, first.gpus),
        protocol=first.identity.protocol,
        entries=entries,
    )


def check_unused(root: Path, name: str, first: Record) -> None:
    """Raises BaselineError where the hardware of this run has a baseline of that name."""
    path = root / f"{_with_entries(name, first, []).place}.json"
    if path.exists():
        raise BaselineError(
            str(path),
            "a name that is not in use",
            "an existing baseline",
            "Add an entry to it with `harness baseline accept`, or choose another name.",
        )


def check_name(name: str) -> None:
    """Raises UsageError where a name cannot be a file name."""
    if not NAME.fullmatch(name):
        raise UsageError(
            "NAME",
            "letters, digits, dots, dashes and underscores",
            repr(name),
            "For example d8-speedrun.",
        )


def check_records(records: Sequence[Record], noise_model: NoiseModel) -> None:
    """Raises BaselineError, naming the field, where records are not replicates of one
    configuration on one kind of machine.

    A single run is enough where the noise model has a row for its recipe.
    """
    statuses = [record.status for record in records]
    if set(statuses) != {"completed"}:
        raise BaselineError(
            "status",
            "completed runs",
            ", ".join(statuses) or "no run",
            "Repeat the others with `harness study --rerun`, or leave them out.",
        )
    for field, values in _replicate_fields(records).items():
        if len(set(values)) > 1:
            raise BaselineError(
                field,
                "replicates of one configuration on one kind of machine",
                " and ".join(sorted(set(values))),
                "Record a baseline for each of them.",
            )
    if copied := copied_seeds(records):
        raise BaselineError(
            "seeds",
            "replicates that differ",
            describe_copies(copied[0]),
            "The trainer fixes or ignores its seed. Store one of these runs, or vary the seed.",
        )
    if not any(_in_every_run(records, metric) for metric in QUALITY):
        raise BaselineError(
            "metrics",
            f"at least one of {', '.join(QUALITY)} in every run",
            ", ".join(sorted(_measured(records))) or "none",
            "See the reasons in the records: a metric that is not finite is not recorded.",
        )
    if len(records) == 1 and not _noise_known(records[0], noise_model):
        raise BaselineError(
            "n",
            "at least two runs, or a row for this recipe in the noise model",
            f"one run, and no row for {recipe_scale(records[0]) or 'it'}",
            "Add replicates with other seeds. `harness noise` shows the rows.",
        )


def _replicate_fields(records: Sequence[Record]) -> dict[str, list[str]]:
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


def _in_every_run(records: Sequence[Record], metric: str) -> bool:
    return all(record.metrics.get(metric) is not None for record in records)


def _measured(records: Sequence[Record]) -> set[str]:
    return {name for record in records for name, value in record.metrics.items() if value}


def _noise_known(record: Record, noise_model: NoiseModel) -> bool:
    scale, gpu = recipe_scale(record), device_name(record.environment)
    return any(
        noise_model.find(scale, metric, gpu, source) is not None
        for metric in LOSSES
        for source in ("seed", "nondeterminism")
    )


# --- comparability --------------------------------------------------------------------------------


def check_comparable(baseline: Baseline, identity: Identity, *, own_settings: bool) -> None:
    """Raises BaselineError unless a candidate measures what the baseline measured.

    `own_settings`: the candidate has settings of its own, so its configuration may differ.
    """
    entry = baseline.now
    for field in ("protocol", "data_id", *(() if own_settings else ("config_id",))):
        stored, own = getattr(entry.identity, field), getattr(identity, field)
        if stored != own:
            raise _not_comparable(field, stored, own)


def check_same_hardware(baseline: Baseline, record: Record) -> None:
    """Raises BaselineError where a candidate ran on other hardware."""
    gpu = device_name(record.environment)
    if gpu is not None and gpu != baseline.gpu:
        raise _not_comparable("gpu", baseline.gpu, gpu)
    if max(1, record.gpus) != baseline.gpus:
        raise _not_comparable("gpus", baseline.gpus, record.gpus)


def _not_comparable(field: str, stored: object, own: object) -> BaselineError:
    return BaselineError(
        field,
        f"{stored}, as in the baseline",
        str(own),
        "They do not measure the same thing: record another baseline for this one.",
    )


def check_fresh(records: Sequence[Record], baseline: Baseline, consumed: Sequence[str]) -> None:
    """Raises BaselineError where records belong to the baseline or have been evidence in a gate.

    The best of several candidates looks better than it is in the runs that selected it.
    `consumed`: runs that gates have used, as `plan_id/attempt`.
    """
    own = {attempt_name(record) for entry in baseline.entries for record in entry.records}
    for names, origin in ((own, "in the baseline already"), (set(consumed), "evidence of a gate")):
        used = [record for record in records if attempt_name(record) in names]
        if used:
            runs = "1 run that is" if len(used) == 1 else f"{len(used)} runs that are"
            seeds = ", ".join(str(record.seed) for record in used)
            raise BaselineError(
                "records",
                "fresh replicates",
                f"{runs} {origin} (seeds {seeds})",
                "Run other seeds: `harness baseline accept NAME --seeds ...`.",
            )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"
