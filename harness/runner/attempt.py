"""One attempt at a planned run: from an empty run directory to a record in the store.

If the previous attempt was interrupted and left checkpoints, they are moved into the new run
directory, its events are copied there, and the trainer resumes from them. If it rejects them, the
attempt fails and the next one starts from the first step.

`recover` ends the trainers that a killed harness left running and records what they had reached, so
that no run is lost, repeated needlessly or left running.
"""

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from harness import files
from harness.errors import StoreError
from harness.results import record, run_files
from harness.results.record import Identity, LaunchInfo, Record, RunPlan
from harness.results.store import Store
from harness.runner import process
from harness.runner.trainer import NativeTrainer

CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"step-([0-9]{1,18})")  # the name of a checkpoint
RANKS_GRACE_S = 330.0
"""For several ranks to write a checkpoint after SIGTERM; the trainer itself allows a slow disk
300 s (model/runtime/stop.py)."""
TORCHRUN_ENVIRONMENT = {"PET_SHUTDOWN_TIMEOUT": "300"}
"""Keeps torchrun from killing ranks that write a checkpoint after its default of 30 s; versions
that lack the option ignore it."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one run needs. `config` includes the seed."""

    plan_id: str
    seed: int
    config: dict[str, Any]
    identity: Identity
    derived: dict[str, Any]
    tricks: dict[str, bool]
    launch: LaunchInfo

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return self.launch.ranks or 1


def run_attempt(
    store: Store,
    trainer: NativeTrainer,
    job: RunSpec,
    *,
    timeout_s: float,
    stop: process.Stop,
    environment: Mapping[str, str] | None = None,
    on_progress: Callable[[run_files.Progress], None] | None = None,
    concurrent_runs: Callable[[], int] = lambda: 0,
    after_failure: bool = False,
) -> Record:
    """Runs a trainer and records the result, however it ends. The caller holds the plan's lock.

    Args:
        store: Where the run directory and the record go.
        trainer: The trainer to start.
        job: What to run.
        timeout_s: End the run after this long.
        stop: End the run once this is set.
        environment: Environment variables beside those that every trainer gets.
        on_progress: Called with the progress of the run.
        concurrent_runs: Called at the end; returns the largest number of other runs at a time.
        after_failure: Resume from the checkpoints of a failed attempt, too.

    Raises DiskError.
    """
    started_at = time.time()
    run_dir = store.new_run_dir(job.plan_id, started_at)
    plan = _write_plan(run_dir, job, trainer.name, started_at)
    config_file = (run_dir / "config.json").resolve()
    command = trainer.train_command(config_file, run_dir.resolve(), job.ranks)
    if (unfinished := _unfinished_run_dir(store, job.plan_id, after_failure)) is not None:
        _take_over(unfinished, run_dir)
        command = [*command, "--resume"]
    if job.ranks > 1:
        environment = {**(environment or {}), **TORCHRUN_ENVIRONMENT}
    ended = process.run_process(
        command=command,
        run_dir=run_dir,
        checkout=trainer.checkout,
        timeout_s=timeout_s,
        stop=stop,
        environment=environment,
        on_progress=on_progress,
        grace_s=None if job.ranks == 1 else RANKS_GRACE_S,
    )
    collected = record.collect_record(run_dir, plan, ended, concurrent_runs())
    now = time.time()
    collected = msgspec.structs.replace(collected, ended_at=now, wall_s=now - started_at)
    return store.commit(collected, run_dir)


def _write_plan(run_dir: Path, job: RunSpec, trainer: str, started_at: float) -> RunPlan:
    """Writes launch.json and config.json."""
    shared = msgspec.structs.asdict(job)
    config = shared.pop("config")
    plan = RunPlan(
        **shared,
        attempt=run_dir.name,
        trainer=trainer,
        started_at=started_at,
        boot_id=run_files.boot_id(),
    )
    files.write_json(run_dir / "launch.json", msgspec.to_builtins(plan))
    files.write_json(run_dir / "config.json", config)
    return plan


def _unfinished_run_dir(store: Store, plan_id: str, after_failure: bool) -> Path | None:
    """The run directory with checkpoints to resume from, or None."""
    resumable = ("interrupted", "failed") if after_failure else ("interrupted",)
    for earlier in reversed(store.attempts(plan_id)):
        if earlier.status not in resumable:
            return None  # finished, or its checkpoints may be the reason why it failed
        run_dir = store.run_dir(plan_id, earlier.attempt)
        if newest_checkpoint(run_dir):
            return run_dir
    return None


def newest_checkpoint(run_dir: Path) -> int:
    """The step of the newest checkpoint in a run directory; 0 if there is none."""
    found = [_STEP.fullmatch(path.name) for path in (run_dir / CHECKPOINTS).glob("step-*")]
    return max((int(match[1]) for match in found if match), default=0)


def _take_over(unfinished: Path, run_dir: Path) -> None:
    """Copies events before it moves checkpoints: if killed in between, checkpoints are kept."""
    with files.disk_errors(run_dir):
        with contextlib.suppress(FileNotFoundError):
            events = files.open_regular(unfinished / "events.jsonl")
            with events, open(run_dir / "events.jsonl", "wb") as copy:
                shutil.copyfileobj(events, copy)
        (unfinished / CHECKPOINTS).rename(run_dir / CHECKPOINTS)


def recover(store: Store) -> list[Record]:
    """Ends and records the runs that a killed harness left in a store; returns their records.

    A run is a leftover if it has no record and no harness holds its plan's lock. Raises StoreError
    where a trainer still runs and cannot be identified.
    """
    recorded = {(known.plan_id, known.attempt) for known in store.records()}
    recovered = []
    for run_dir in store.run_dirs():
        plan_id = run_dir.parent.name
        if (plan_id, run_dir.name) in recorded:
            continue
        lock = store.lock_plan(plan_id)
        if lock is None:
            continue  # another harness is running it
        with lock:
            if (leftover := _recover_run(store, run_dir)) is not None:
                recovered.append(leftover)
    return recovered


def _recover_run(store: Store, run_dir: Path) -> Record | None:
    plan = record.read_plan(run_dir)
    if any(known.attempt == run_dir.name for known in store.attempts(run_dir.parent.name)):
        return None  # its harness recorded it after `recover` listed the records
    _end_leftover(run_dir)
    if plan is None:
        return None  # the harness was killed before it started a trainer
    ended_at = _last_write(run_dir, plan.started_at)
    ended = record.ProcessEnd(
        returncode=0, cause="harness gone", ended_at=ended_at, trainer_s=ended_at - plan.started_at
    )
    return store.commit(record.collect_record(run_dir, plan, ended), run_dir)


def _end_leftover(run_dir: Path) -> None:
    """Ends all processes that hold the lock of a run directory, write to its log or have its mark.

    Ranks only have the log open: torchrun does not pass the lock on to them.
    """
    deadline = time.monotonic() + process.GRACE_S
    terminated: set[int] = set()  # a second SIGTERM would end a checkpoint that is being written
    while (lock := _lock_if_idle(run_dir)) is None:
        overdue = time.monotonic() > deadline
        groups = _leftover_groups(run_dir)
        if overdue and not groups:
            raise StoreError(
                str(run_dir),
                "no trainer running in it",
                "one that a killed harness left and that cannot be identified from here",
                f"End it by hand (process.json has its pid; `fuser {run_dir / 'lock'}` finds it), "
                "then re-run the command.",
            )
        if overdue and time.monotonic() > deadline + process.GRACE_S:
            got = f"process groups {sorted(groups)}, which do not end after SIGKILL"
            hint = "They hang in the kernel: restart the machine, then re-run the command."
            raise StoreError(str(run_dir), "killed processes to end", got, hint)
        for group in groups if overdue else groups - terminated:
            process.signal_group(group, signal.SIGKILL if overdue else signal.SIGTERM)
        terminated |= groups
        time.sleep(0.1)
    lock.close()


def _lock_if_idle(run_dir: Path) -> IO[bytes] | None:
    """The lock of a run directory, or None while a process holds it or writes to the log."""
    lock = files.lock_file(run_dir / "lock")
    busy = lock is not None and (process.writers(run_dir / process.LOG) or process.marked(run_dir))
    if lock is not None and busy:
        lock.close()
        return None
    return lock


def _leftover_groups(run_dir: Path) -> set[int]:
    """The process groups that hold the lock or the log open, and the group in process.json.

    A noted pid counts only if its start time matches; otherwise it was reused by another process.
    """
    groups = set()
    writers = process.writers(run_dir / process.LOG)
    for pid in {*process.holders(run_dir / "lock"), *writers, *process.marked(run_dir)}:
        with contextlib.suppress(ProcessLookupError):
            groups.add(os.getpgid(pid))
    note = process.read_note(run_dir)
    if note is not None and process.start_ticks(note.pid) == note.start_ticks is not None:
        groups.add(note.pid)
    return groups - {os.getpgid(0)}


def _last_write(run_dir: Path, at_least: float) -> float:
    """When a trainer last wrote to its run directory, in Unix seconds; no time to come."""
    names = ("result.json", "events.jsonl", "environment.json", "log.txt", "process.json")
    times = [at_least]
    for name in names:
        with contextlib.suppress(OSError):
            times.append(min(time.time(), (run_dir / name).stat().st_mtime))
    return max(times)
