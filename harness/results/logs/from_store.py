"""This project's own results: records, run directories, whole stores, and arms of studies.

Speeds of records are compared inside one session only, so what a session is has to be known before
two sides are told apart: it is worked out over every record at hand, of both sides and of the
stores they come from.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.results import core_answers
from harness.results.logs.run_log import LogError, LoggedRun
from harness.results.recipe import device_name, is_full_scale, recipe_scale
from harness.results.record import ProcessEnd, Record, collect_record, read_plan, sessions
from harness.results.store import CORE_FOLDER, Store

Key = tuple[str, str]  # plan id, attempt


def record_from_run_dir(path: Path) -> Record:
    """The record of a run directory, made from what lies in it. Raises LogError."""
    plan = read_plan(path)
    if plan is None:
        raise LogError(
            str(path),
            "a run directory of the harness, with its launch.json",
            "result.json without a whole launch.json",
            "Name a directory below plans/ of a store, or start the run by `harness run`.",
        )
    for known in Store(path.parents[2]).attempts(plan.plan_id):
        if known.attempt == plan.attempt:
            return known
    ended = ProcessEnd(returncode=0, cause=None, ended_at=plan.started_at, trainer_s=0.0)
    return collect_record(path, plan, ended)


def core_path_of_run_dir(path: Path, record: Record) -> Path | None:
    """The outcomes that lie in a run directory, where its record says that they are whole."""
    found = path / core_answers.NAME
    return found if core_settings(record) and found.is_file() else None


def core_path_of_file(path: Path) -> Path | None:
    """The outcomes of a record file in a store; None for one that stands alone."""
    found = path.parent.parent / CORE_FOLDER / f"{path.stem}.parquet"
    return found if found.is_file() else None


def core_path_of_store(root: Path, record: Record) -> Path | None:
    """The outcomes that a store keeps of a record."""
    return Store(root).beside(record).get(CORE_FOLDER) if core_settings(record) else None


def record_from_file(path: Path) -> Record:
    """A record file. Raises LogError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.DecodeError as error:
        raise LogError(
            str(path),
            "a record, as a store has them in records/",
            str(error),
            "Name the store, its records or its run directories.",
        ) from error


def study_arm_records(root: Path, words: str, records: Sequence[Record]) -> list[Record]:
    """The runs of `STUDY` or `STUDY/ARM` in a store; the base without an arm. Raises UsageError.

    `records`: all of the store, oldest first. The completed attempt of a run counts, else the last.
    """
    name, _, arm = words.partition("/")
    study = Store(root).study(name)
    arms = [known.name for known in study.arms]
    wanted = arm or "base"
    if wanted not in arms:
        raise UsageError(
            f"{root}:{words}",
            f"an arm of the study {name}",
            repr(wanted),
            f"It has: {', '.join(arms)}.",
        )
    planned = {run.plan_id for run in study.runs if run.arm == wanted}
    deciding: dict[str, Record] = {}
    for record in records:
        known = deciding.get(record.plan_id)
        if record.plan_id in planned and (known is None or known.status != "completed"):
            deciding[record.plan_id] = record
    return list(deciding.values())


def store_records(root: Path, records: Sequence[Record]) -> list[Record]:
    """All completed records of a store, which must be of one configuration. Raises UsageError."""
    found = [record for record in records if record.status == "completed"]
    if len({record.identity.config_id for record in found}) > 1:
        names = ", ".join(Store(root).study_names()) or "none"
        raise UsageError(
            str(root),
            "a store with one configuration in it",
            f"{len({record.identity.config_id for record in found})} of them",
            f"Name a study's arm, as {root}:STUDY/ARM (studies: {names}), or records.",
        )
    return found


def is_store(path: Path) -> bool:
    """Whether a folder is a store with records."""
    return (path / "records").is_dir()


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
    """How CORE was evaluated, by field; nothing where it was not."""
    if isinstance(record.core, msgspec.UnsetType):
        return {}
    return {name: str(value) for name, value in msgspec.structs.asdict(record.core).items()}


def logged_run(record: Record, session: int, source: str, answers: Path | None = None) -> LoggedRun:
    """A record as a run among others; `answers`: where its outcomes of CORE are."""
    whole = record.status == "completed"
    metrics = {name: value for name, value in record.metrics.items() if value is not None}
    warnings = []
    if record.ended_at < record.started_at or record.wall_s < 0:
        warnings.append(f"{source}: it ends before it starts; no times are taken")
        metrics = {name: value for name, value in metrics.items() if not _is_time(name)}
    return LoggedRun(
        source=source,
        family=record.trainer,
        metrics=metrics if whole else {},
        steps=record.steps,
        planned_steps=_planned(record),
        ending=None if whole else _ending(record),
        diverged=record.status in ("diverged", "out_of_memory"),
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
        identity={
            "protocol": str(record.identity.protocol),
            "data_id": str(record.identity.data_id),
        },
        evaluation=core_settings(record),
        answers=answers,
        config_id=record.identity.config_id,
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
    words = _ENDINGS.get(record.status, "it failed")
    return f"{words}: {record.reason}" if record.reason else words


def logged_runs(records: Sequence[Record], name: str) -> list[LoggedRun]:
    """Records as one side of a comparison; sessions do not matter, because no speed is taken."""
    return [logged_run(record, 1, f"{name}, seed {record.seed}") for record in records]
