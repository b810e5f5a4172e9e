"""Makes the runs of a study: in blocks, within limits, on one or several GPUs, resumable.

Sweeps first, then blocks with interrupted ones first, then horizons. A task stays on one GPU: a
whole block where there are at least as many blocks as GPUs, because speeds are compared inside
blocks and two GPUs are two environments; otherwise every run is a task of its own. Every outcome of
a run is a record, and the remaining work is always derived from the records: after any interruption
the same command resumes.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from harness import errors
from harness.errors import StoreError, TrainerError
from harness.files import lock_file
from harness.results.record import FINAL_STATUSES, LaunchInfo, Record
from harness.results.run_files import Progress
from harness.results.store import Store
from harness.results.study_plan import PlannedRun, ResolvedStudy
from harness.runner.attempt import RunSpec, run_attempt
from harness.runner.process import Stop
from harness.runner.replies import Request
from harness.runner.trainer import NativeTrainer, with_value
from harness.runner.workers import HELD_POLL_S, ConcurrentRuns, gpu_environment
from harness.study.budget import remaining_seconds
from harness.study.budget_limits import STOPPED, BudgetLimits, StopStudy

POLL_S = 0.1
MOST_NAMED = 20  # runs without an outcome that the last line names


class StudyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one command runs a study. `gpus`: one run at a time on each; empty: no assignment."""

    rerun: bool = False  # runs that diverged or ran out of memory, too
    max_minutes: float | None = None
    allow_partial_blocks: bool = False
    gpus: list[str] = []


class Command:
    """State of one command, which may execute twice: the sweeps, then the rest of the study."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.began = time.monotonic()
        self.rerun: set[str] = set()  # plan ids that were made again


class StudyListener(Protocol):
    """Receives what happens while a study runs. Methods may be called from several threads."""

    def phase_started(self, study: ResolvedStudy, store: Store) -> None:
        """The runs of `study`, or of its sweeps, are about to start."""

    def phase_ended(self) -> None:
        """No run of the phase is left, or the study was stopped."""

    def run_started(self, planned: PlannedRun, gpu: str) -> None: ...
    def run_progress(self, planned: PlannedRun, latest: Progress) -> None: ...
    def run_ended(self, planned: PlannedRun, record: Record) -> None: ...
    def message(self, text: str) -> None: ...

    def time_left(self, seconds: float | None) -> None:
        """The estimated time to the end of the phase; None where it is unknown."""


class SilentListener:
    """A `StudyListener` that ignores everything."""

    def phase_started(self, study: ResolvedStudy, store: Store) -> None: ...
    def phase_ended(self) -> None: ...
    def run_started(self, planned: PlannedRun, gpu: str) -> None: ...
    def run_progress(self, planned: PlannedRun, latest: Progress) -> None: ...
    def run_ended(self, planned: PlannedRun, record: Record) -> None: ...
    def message(self, text: str) -> None: ...
    def time_left(self, seconds: float | None) -> None: ...


class StudyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an execution ended. `stopped_early`: a limit or repeated failures stopped it."""

    exit_code: int
    reason: str
    stopped_early: bool = False


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Runs made one after another on one GPU.

    `opens`: the block that this task begins, which must fit into the time that is left.
    """

    runs: list[PlannedRun]
    opens: list[PlannedRun] = []


def tasks(study: ResolvedStudy, done: set[str], gpus: int, *, sweeps: bool) -> list[Task]:
    """The remaining tasks of the sweeps, or of everything else. `done`: plan ids."""
    remaining = [planned for planned in study.runs if planned.plan_id not in done]
    roles = {arm.name: arm.role for arm in study.arms}
    if sweeps:
        return [Task(runs=[run]) for run in remaining if roles[run.arm] == "retune"]
    horizons = [Task(runs=[run]) for run in remaining if roles[run.arm] == "horizon"]
    interrupted, fresh = _blocks(study, done)
    if len(interrupted) + len(fresh) >= gpus:
        whole = [Task(runs=block) for block in interrupted]
        return [*whole, *(Task(runs=block, opens=block) for block in fresh), *horizons]
    single = [Task(runs=[run]) for block in interrupted for run in block]
    for block in fresh:
        single += [Task(runs=[run], opens=block if run is block[0] else []) for run in block]
    return single + horizons


def spread_blocks(study: ResolvedStudy, done: set[str], gpus: int) -> int:
    """The number of blocks spread over several GPUs, so that their speeds cannot be compared."""
    blocks = sum(map(len, _blocks(study, done)))
    return blocks if blocks < gpus else 0


def _blocks(
    study: ResolvedStudy, done: set[str]
) -> tuple[list[list[PlannedRun]], list[list[PlannedRun]]]:
    """The remaining runs of interrupted blocks, and the blocks that have not begun."""
    interrupted: list[list[PlannedRun]] = []
    fresh: list[list[PlannedRun]] = []
    blocks: dict[int, list[PlannedRun]] = {}
    for run in study.runs:
        if run.block is not None:
            blocks.setdefault(run.block, []).append(run)
    for runs in blocks.values():
        remaining = [run for run in runs if run.plan_id not in done]
        if remaining:
            (fresh if len(remaining) == len(runs) else interrupted).append(remaining)
    return interrupted, fresh


@contextmanager
def study_lock(store: Store, name: str) -> Iterator[None]:
    """Holds the lock of a study. Raises StoreError while another process runs it."""
    handle = lock_file(store.study_lock_path(name))
    if handle is None:
        raise StoreError(
            str(store.root),
            f"no other process running the study {name!r}",
            "another harness that runs it",
            "Wait until it ends, or give this study another --name or --store.",
        )
    try:
        yield
    finally:
        handle.close()


class Executor:
    """Makes the runs of one study with the options of one command."""

    def __init__(
        self,
        study: ResolvedStudy,
        store: Store,
        trainer: NativeTrainer,
        options: StudyOptions,
        listener: StudyListener,
        command: Command,
    ) -> None:
        self.study, self.store, self.trainer = study, store, trainer
        self.options, self.listener, self.command = options, listener, command
        self.gpus = list(options.gpus) or [""]
        self.limits = BudgetLimits(
            study,
            store.records(),
            began=command.began,
            max_minutes=options.max_minutes,
            allow_partial_blocks=options.allow_partial_blocks,
        )
        self.remaining: list[PlannedRun] = []
        self.concurrent_runs = ConcurrentRuns()

    def execute(self, *, sweeps: bool = False) -> StudyOutcome:
        """Makes the remaining runs of the sweeps, or of all else. Raises HarnessError."""
        done = self._done()
        todo = tasks(self.study, done, len(self.gpus), sweeps=sweeps)
        self.remaining = [planned for task in todo for planned in task.runs]
        any_run = bool(todo)
        self.listener.phase_started(self.study, self.store)
        try:
            if not sweeps and (spread := spread_blocks(self.study, done, len(self.gpus))):
                self.listener.message(
                    f"{spread} {'block is' if spread == 1 else 'blocks are'} spread over "
                    f"{len(self.gpus)} GPUs, so speeds cannot be compared inside them. Pass "
                    f"--gpus with at most {spread} to keep each block on one GPU."
                )
            self._execute(todo)
        except StopStudy as stop:
            return StudyOutcome(exit_code=stop.exit_code, reason=stop.reason, stopped_early=True)
        finally:
            self.listener.phase_ended()
        return self._outcome(self._done() if any_run else done, sweeps)

    def _outcome(self, done: set[str], sweeps: bool) -> StudyOutcome:
        missing = [planned for planned in self.study.runs if planned.plan_id not in done]
        if sweeps:
            missing = [run for run in missing if self.study.arm(run.arm).role == "retune"]
        if not missing:
            return StudyOutcome(exit_code=errors.PASS, reason="All runs are recorded.")
        if self.command.stop:
            return StudyOutcome(exit_code=errors.STOPPED_AT_LIMIT, reason=STOPPED)
        first = missing[:MOST_NAMED]
        names = ", ".join(f"{planned.arm} (seed {planned.seed})" for planned in first)
        names += ", ..." if len(missing) > MOST_NAMED else ""
        return StudyOutcome(
            exit_code=errors.COULD_NOT_RUN,
            reason=f"{len(missing)} of {len(self.study.runs)} runs have no outcome: {names}. "
            "Re-run the same command to make them again.",
        )

    def _done(self) -> set[str]:
        """The plan ids of the runs that have an outcome, from one listing of the store."""
        attempts = self.store.attempts_by_plan()
        plans = {planned.plan_id for planned in self.study.runs}
        return {plan for plan in plans if self._is_done(plan, attempts.get(plan, ()))}

    def _is_done(self, plan_id: str, attempts: Sequence[Record]) -> bool:
        """Whether a run has completed; or diverged or ran out of memory, unless --rerun."""
        statuses = {record.status for record in attempts}
        if "completed" in statuses:
            return True
        again = self.options.rerun and plan_id not in self.command.rerun
        return bool(statuses & set(FINAL_STATUSES)) and not again

    # scheduling -------------------------------------------------------------------------------

    def _execute(self, todo: list[Task]) -> None:
        """Makes the tasks in order, each on the first free GPU. Raises what stopped it."""
        queues: dict[str, list[PlannedRun]] = {gpu: [] for gpu in self.gpus}
        running: dict[Future[Record | None], tuple[str, PlannedRun]] = {}
        error: Exception | None = None
        with ThreadPoolExecutor(max_workers=len(self.gpus)) as pool:
            while running or (error is None and (todo or any(queues.values()))):
                busy = {gpu for gpu, _ in running.values()}
                for gpu in self.gpus:
                    if error is None and gpu not in busy:
                        try:
                            planned = self._next(queues[gpu], todo)
                        except Exception as stopped_by:
                            error = stopped_by
                            continue
                        if planned is not None:
                            running[pool.submit(self._run, planned, gpu)] = (gpu, planned)
                for future in wait(running, POLL_S, FIRST_COMPLETED).done:
                    _, planned = running.pop(future)
                    try:
                        self._finish(planned, future.result())
                    except Exception as failed_with:
                        error = failed_with
                        self.command.stop.request()  # the other runs end and are recorded
                left_s = remaining_seconds(self.limits.estimates, self.remaining)
                self.listener.time_left(left_s / len(self.gpus) if left_s is not None else None)
        if error is not None:
            raise error

    def _next(self, queue: list[PlannedRun], todo: list[Task]) -> PlannedRun | None:
        """The next run of a GPU: of its task, else of a new one. Raises StopStudy at a limit."""
        while queue or todo:
            if self.command.stop:
                raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
            self.limits.check_failures()
            if not queue:
                if todo[0].opens:
                    parallel = 1 if len(todo[0].runs) > 1 else len(self.gpus)
                    self.limits.check_block(todo[0].opens, parallel)
                self._check_code(todo[0])
                queue += todo.pop(0).runs
            self.limits.check_run(queue[0])
            planned = queue.pop(0)
            if not self.limits.keeps_failing(planned.arm):
                return planned
            self.listener.message(
                f"{planned.arm}, seed {planned.seed}: skipped, because the arm keeps failing."
            )
        return None

    def _check_code(self, task: Task) -> None:
        """Raises TrainerError where the code was edited after the study was planned."""
        arms = {arm.checkout: arm for arm in (self.study.arm(run.arm) for run in task.runs)}
        for arm in arms.values():
            request = Request(name=arm.name, base=arm.base, set=arm.set)
            reply = self.trainer.at(Path(arm.checkout)).describe([request])[0]
            if reply.identity is not None and reply.identity.code_id != arm.identity.code_id:
                raise TrainerError(
                    arm.checkout,
                    f"the code this study was planned with ({arm.identity.code_id})",
                    f"other code ({reply.identity.code_id})",
                    "Undo the edit and re-run the same command, or start under a new --name.",
                )

    def _finish(self, planned: PlannedRun, record: Record | None) -> None:
        self.remaining.remove(planned)
        if record is not None:
            self.limits.add(planned, record)
            self.listener.run_ended(planned, record)

    # one run ----------------------------------------------------------------------------------

    def _run(self, planned: PlannedRun, gpu: str) -> Record | None:
        """Makes one run under its plan's lock; None where another process made it meanwhile."""
        stop = self.command.stop
        while (lock := self.store.lock_plan(planned.plan_id)) is None:
            if stop:
                return None
            time.sleep(HELD_POLL_S)
        with lock:
            if self._is_done(planned.plan_id, self.store.attempts(planned.plan_id)):
                return None
            self.command.rerun.add(planned.plan_id)
            self.listener.run_started(planned, gpu)
            with self.concurrent_runs.joined(gpu):
                return run_attempt(
                    self.store,
                    self.trainer.at(Path(self.study.arm(planned.arm).checkout)),
                    self._run_spec(planned),
                    timeout_s=60 * self.study.limits.run_minutes,
                    stop=stop,
                    environment=gpu_environment(gpu),
                    on_progress=lambda latest: self.listener.run_progress(planned, latest),
                    concurrent_runs=lambda: self.concurrent_runs.most(gpu),
                )

    def _run_spec(self, planned: PlannedRun) -> RunSpec:
        arm = self.study.arm(planned.arm)
        seed_path = self.study.settable_fields.get("seed", "seed")
        return RunSpec(
            plan_id=planned.plan_id,
            seed=planned.seed,
            config=with_value(arm.config, seed_path, planned.seed),
            identity=arm.identity,
            derived=arm.derived,
            tricks=arm.tricks,
            launch=LaunchInfo(study=self.study.study, arm=arm.name, block=planned.block),
        )
