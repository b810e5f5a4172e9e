"""One attempt at one planned run, from an empty run directory to a record in the store.

Where the attempt before was interrupted and left checkpoints, they are moved into the new run
directory, its events are copied there, and the trainer goes on with --resume. If it refuses them,
that attempt has failed, and the next one starts from the first step; unless the caller says that a
failure was the machine's, as a lost rank is.

Also what a killed harness left behind: `recover` ends its trainers and records what they had
reached, so that no run is lost, doubled or left running. Between the store and the study in the
flow; knows nothing of arms and blocks.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.errors import StoreError
from harness.results import record, run_files
from harness.results.record import Identity, LaunchInfo, Record, RunPlan
from harness.results.store import Store
from harness.runner import process
from harness.runner.trainer import NativeTrainer

CHECKPOINTS = "checkpoints"
RANKS_GRACE_S = 330.0
"""For several ranks to write a checkpoint after SIGTERM: the trainer's own patience with a slow
disk is 300 s (model/stop.py)."""
TORCHRUN_PATIENCE = {"PET_SHUTDOWN_TIMEOUT": "300"}
"""How torchrun is told not to kill ranks after its 30 s, as they write; an older one has no ear."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that one run needs. `config` has its seed in it."""

    plan_id: str
    seed: int
    config: dict[str, Any]
    identity: Identity
    derived: dict[str, Any]
    tricks: dict[str, bool]
    launch: LaunchInfo

    @property
    def ranks(self) -> int:
        """On how many ranks it runs."""
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
    """Makes one run and records it, whatever its end. The caller holds the plan's lock.

    `concurrent_runs` is asked at the end for the most other runs there were meanwhile.
    `after_failure`: goes on from the checkpoints of one that failed, too. Raises DiskError.
    """
    started_at = time.time()
    run_dir = store.new_run_dir(job.plan_id, started_at)
    plan = RunPlan(
        plan_id=job.plan_id,
        attempt=run_dir.name,
        trainer=trainer.name,
        seed=job.seed,
        identity=job.identity,
        derived=job.derived,
        tricks=job.tricks,
        launch=job.launch,
        started_at=started_at,
        boot_id=run_files.boot_id(),
    )
    files.write_json(run_dir / "launch.json", msgspec.to_builtins(plan))
    files.write_json(run_dir / "config.json", job.config)
    config_file = (run_dir / "config.json").resolve()
    command = trainer.train_command(config_file, run_dir.resolve(), job.ranks)
    if (unfinished := _unfinished(store, job.plan_id, after_failure)) is not None:
        _take_over(unfinished, run_dir)
        command = [*command, "--resume"]
    if job.ranks > 1:
        environment = {**(os.environ if environment is None else environment), **TORCHRUN_PATIENCE}
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
    made = record.collect_record(run_dir, plan, ended, concurrent_runs())
    now = time.time()
    made = msgspec.structs.replace(made, ended_at=now, wall_s=now - started_at)
    return store.commit(made, run_dir)


def _unfinished(store: Store, plan_id: str, after_failure: bool) -> Path | None:
    """The run directory with the checkpoints of a run that only has to go on, or None."""
    goes_on = ("interrupted", "failed") if after_failure else ("interrupted",)
    for made in reversed(store.attempts(plan_id)):
        if made.status not in goes_on:
            return None  # it has its answer, or what it had reached may be why it failed
        run_dir = store.run_dir(plan_id, made.attempt)
        if newest_checkpoint(run_dir):
            return run_dir
    return None


def newest_checkpoint(run_dir: Path) -> int:
    """The step behind which a run directory's newest checkpoint was written; 0 where none was."""
    found = (run_dir / CHECKPOINTS).glob("step-*")
    steps = [path.name.removeprefix("step-") for path in found]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def _take_over(unfinished: Path, run_dir: Path) -> None:
    """Events first: a harness killed between the two leaves the checkpoints where they are."""
    with files.disk_errors(run_dir):
        shutil.copyfile(unfinished / "events.jsonl", run_dir / "events.jsonl")
        (unfinished / CHECKPOINTS).rename(run_dir / CHECKPOINTS)


def recover(store: Store) -> list[Record]:
    """Ends and records what a killed harness left in a store; returns the records it made.

    An attempt is a leftover when it has no record and no harness holds its plan's lock. Raises
    StoreError where a trainer still runs and cannot be told apart from another process.
    """
    recorded = {(made.plan_id, made.attempt) for made in store.records()}
    found = []
    for run_dir in store.run_dirs():
        plan_id = run_dir.parent.name
        if (plan_id, run_dir.name) in recorded:
            continue
        lock = store.lock_plan(plan_id)
        if lock is None:
            continue  # another harness is at work on it
        try:
            made = _recover_one(store, run_dir)
        finally:
            lock.close()
        if made is not None:
            found.append(made)
    return found


def _recover_one(store: Store, run_dir: Path) -> Record | None:
    plan = record.read_plan(run_dir)
    if any(made.attempt == run_dir.name for made in store.attempts(run_dir.parent.name)):
        return None  # its harness recorded it between our look at the records and at the lock
    _end_leftover(run_dir)
    if plan is None:
        return None  # killed before the plan was written: nothing was started
    ended_at = _last_sign_of_life(run_dir, plan.started_at)
    ended = record.ProcessEnd(
        returncode=0, cause="harness gone", ended_at=ended_at, trainer_s=ended_at - plan.started_at
    )
    return store.commit(record.collect_record(run_dir, plan, ended), run_dir)


def _end_leftover(run_dir: Path) -> None:
    """Ends the processes that hold a run directory's lock or log; none of them may outlive this.

    Ranks have the log alone: torchrun hands no lock on to them.
    """
    lock_path = run_dir / "lock"
    deadline = time.monotonic() + process.GRACE_S
    asked: set[int] = set()  # a second SIGTERM may cut short what the first one began
    while (lock := files.lock_file(lock_path)) is None or process.writers(run_dir / process.LOG):
        if lock is not None:
            lock.close()
        late = time.monotonic() > deadline
        groups = _groups(run_dir, lock_path)
        if late and not groups:
            raise StoreError(
                str(run_dir),
                "no trainer at work in it",
                "one that a killed harness left and that cannot be identified from here",
                f"End it by hand (process.json has its pid; `fuser {lock_path}` finds it), "
                "then give the same command again.",
            )
        if late and time.monotonic() > deadline + process.GRACE_S:
            raise StoreError(
                str(run_dir),
                "that a killed process ends",
                f"process groups {sorted(groups)} that do not, even after SIGKILL",
                "They hang in the kernel: restart the machine, then give the command again.",
            )
        for group in groups if late else groups - asked:
            process.signal_group(group, signal.SIGKILL if late else signal.SIGTERM)
        asked |= groups
        time.sleep(0.1)
    lock.close()


def _groups(run_dir: Path, lock_path: Path) -> set[int]:
    """The process groups of a leftover: whoever has its lock or its log open, and the pid it was
    noted with.

    A pid counts only while its start time is the noted one; else it is another process by now.
    """
    groups = set()
    for pid in {*process.holders(lock_path), *process.writers(run_dir / process.LOG)}:
        with contextlib.suppress(ProcessLookupError):
            groups.add(os.getpgid(pid))
    note = files.read_json(run_dir / "process.json")
    if isinstance(note, dict) and note.get("start_ticks") is not None:
        pid = int(note["pid"])
        if process.start_ticks(pid) == note["start_ticks"]:
            groups.add(pid)
    return groups - {os.getpgid(0)}


def _last_sign_of_life(run_dir: Path, at_least: float) -> float:
    names = ("result.json", "events.jsonl", "environment.json", "log.txt", "process.json")
    times = [at_least]
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            times.append((run_dir / name).stat().st_mtime)
    return max(times)
