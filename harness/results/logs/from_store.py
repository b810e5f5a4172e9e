"""Reads results of this project: records, run directories, stores and arms of studies.

Speeds are compared within one session only. Sessions are computed over all records at hand: those
of both sides and of the stores that they come from.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.results import core_answers, stored_file
from harness.results.logs.run_log import LogError, LoggedRun, final_metrics
from harness.results.recipe import device_name, is_full_scale, recipe_scale
from harness.results.record import (
    ProcessEnd,
    Record,
    attempt_name,
    collect_record,
    read_plan,
    sessions,
)
from harness.results.store import CORE_FOLDER, Store

Key = tuple[str, str]  # plan id, attempt


def record_from_run_dir(path: Path) -> Record:
    """The record of a run directory, or a new one from its files. Raises LogError."""
    plan = read_plan(path)
    if plan is None:
        raise LogError(
            str(path),
            "a run directory of the harness, with its launch.json",
            "result.json without a complete launch.json",
            "Name a folder in plans/ of a store, or start the run with `harness run`.",
        )
    for known in Store(path.parents[2]).attempts(plan.plan_id):
        if known.attempt == plan.attempt:
            return known
    ended = ProcessEnd(returncode=0, cause=None, ended_at=plan.started_at, trainer_s=0.0)
    return collect_record(path, plan, ended)


def core_path_of_run_dir(path: Path, record: Record) -> Path | None:
    """The core.parquet of a run directory, if its record has CORE settings."""
    answers = path / core_answers.NAME
    return answers if core_settings(record) and answers.is_file() else None


def core_path_of_file(path: Path) -> Path | None:
    """The CORE answers of a record file; None for a file outside a store."""
    answers = path.parent.parent / CORE_FOLDER / f"{path.stem}.parquet"
    return answers if answers.is_file() else None


def core_path_of_store(root: Path, record: Record) -> Path | None:
    """The CORE answers that a store has of a record."""
    return Store(root).side_files(record).get(CORE_FOLDER) if core_settings(record) else None


def record_from_file(path: Path) -> Record:
    """Reads a record file. Raises LogError."""
    return stored_file.decode(
        stored_file.read(path, "a record", LogError),
        Record,
        path,
        "a record",
        if_damaged="Name a store, its records or its run directories.",
        if_older="Name a record of this version of the harness, or the log of the run.",
        error=LogError,
    )


def study_arm_records(root: Path, text: str, records: Sequence[Record]) -> list[Record]:
    """The runs of `STUDY/ARM`, or of `STUDY` for its base. Raises UsageError.

    `records`: all records of the store, oldest first. Of several attempts at one run, the first
    completed one counts, or else the last.
    """
    name, _, arm = text.partition("/")
    study = Store(root).study(name)
    arms = [known.name for known in study.arms]
    wanted = arm or "base"
    if wanted not in arms:
        raise UsageError(
            f"{root}:{text}",
            f"an arm of the study {name}",
            repr(wanted),
            f"Its arms: {', '.join(arms)}.",
        )
    planned = {run.plan_id for run in study.runs if run.arm == wanted}
    deciding: dict[str, Record] = {}
    for record in records:
        known = deciding.get(record.plan_id)
        if record.plan_id in planned and (known is None or known.status != "completed"):
            deciding[record.plan_id] = record
    return list(deciding.values())


def store_records(root: Path, records: Sequence[Record]) -> list[Record]:
    """The completed records of a store with one configuration. Raises UsageError."""
    completed = [record for record in records if record.status == "completed"]
    configurations = len({record.identity.config_id for record in completed})
    if configurations > 1:
        names = ", ".join(Store(root).study_names()) or "none"
        raise UsageError(
            str(root),
            "a store with one configuration",
            f"{configurations} configurations",
            f"Name an arm of a study, as in {root}:STUDY/ARM (studies: {names}), or records.",
        )
    return completed


def attempt_records(name: str, records: Sequence[Record]) -> list[Record]:
    """The record of `PLAN_ID/ATTEMPT`; none where the store has no such attempt."""
    plan_id, _, attempt = name.partition("/")
    return [r for r in records if r.plan_id == plan_id and r.attempt == attempt]


def is_store(path: Path) -> bool:
    """Whether a folder is a store with records."""
    return (path / "records").is_dir()


def store_around(path: Path, levels: int) -> Path | None:
    """The store so many levels above a file or folder of it; None where there is none."""
    parents = path.resolve().parents
    root = parents[levels] if len(parents) > levels else None
    return root if root is not None and is_store(root) else None


def is_run_dir(path: Path) -> bool:
    """Whether a folder is a run directory."""
    return (path / "result.json").is_file() or (path / "launch.json").is_file()


def session_numbers(records: list[Record]) -> dict[Key, int]:
    """The session of each record, numbered from the oldest."""
    return {
        (record.plan_id, record.attempt): number
        for number, session in enumerate(sessions(records), start=1)
        for record in session
    }


def core_settings(record: Record) -> dict[str, str]:
    """How CORE was evaluated, by field; empty if it was not."""
    if isinstance(record.core, msgspec.UnsetType):
        return {}
    return {name: str(value) for name, value in msgspec.structs.asdict(record.core).items()}


def logged_run(
    record: Record,
    session: int,
    source: str,
    answers: Path | None = None,
    store: Path | None = None,
) -> LoggedRun:
    """A record as a run to compare. `answers`: its core.parquet; `store`: where the record is."""
    completed = record.status == "completed"
    values = {name: value for name, value in record.metrics.items() if value is not None}
    metrics, ending, diverged = final_metrics(values)
    warnings = []
    if record.ended_at < record.started_at or record.wall_s < 0:
        warnings.append(f"{source}: it ends before it starts; times are left out")
        metrics = {name: value for name, value in metrics.items() if not _is_time(name)}
    return LoggedRun(
        source=source,
        family=record.trainer,
        metrics=metrics if completed else {},
        steps=record.steps,
        planned_steps=_planned(record),
        ending=ending if completed else _ending(record),
        diverged=(completed and diverged) or record.status in ("diverged", "out_of_memory"),
        scale=recipe_scale(record),
        full_scale=is_full_scale(record),
        gpu=device_name(record.environment),
        environment={
            "environment_id": record.environment_id,
            "session": str(session),
            "concurrent_runs": str(record.concurrent_runs),
        },
        environment_known=bool(record.environment_id),
        varied="seed",
        seed=record.seed,
        code_id=record.identity.code_id,
        identity={
            "protocol": str(record.identity.protocol),
            "data_id": str(record.identity.data_id),
        },
        evaluation=core_settings(record),
        answers=answers,
        config_id=record.identity.config_id,
        store=store,
        attempt=attempt_name(record),
        started_at=record.started_at,
        warnings=warnings,
    )


def _is_time(name: str) -> bool:
    return name.endswith(("_s", "_per_s", "_per_s_job")) or name == "mfu"


def _planned(record: Record) -> int | None:
    steps = record.derived.get("steps")
    return steps if isinstance(steps, int) else None


_ENDINGS = {
    "diverged": "it diverged",
    "out_of_memory": "it ran out of memory",
    "interrupted": "it was interrupted",
}


def _ending(record: Record) -> str:
    ending = _ENDINGS.get(record.status, "it failed")
    return f"{ending}: {record.reason}" if record.reason else ending


def logged_runs(records: Sequence[Record], name: str) -> list[LoggedRun]:
    """Records as one side of a comparison without speeds, for which sessions do not matter."""
    return [logged_run(record, 1, f"{name}, seed {record.seed}") for record in records]
