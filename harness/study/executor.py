"""Makes the runs of a study: in blocks, within limits, on one or several GPUs, resumable.

Whatever happens to a run becomes a record and the study goes on. Killed at any moment, the same
command goes on where it stopped, because what is left is always read from the records. Comes after
schedule.py, which orders the runs, and allowance.py, which says when to stop; what the records
mean is attribution.py's part.
"""

import time
from collections.abc import Iterator
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
from harness.runner.trainer import NativeTrainer, Request, with_value
from harness.runner.workers import HELD_POLL_S, ConcurrentRuns, gpu_environment
from harness.study.budget import todo_seconds
from harness.study.budget_limits import STOPPED, BudgetLimits, StopStudy
from harness.study.schedule import Task, spread_blocks, tasks

POLL_S = 0.1


class StudyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one command runs a study. `gpus`: one run at a time on each; empty: one run, as is."""

    retry: bool = False
    max_minutes: float | None = None
    split_blocks: bool = False
    gpus: list[str] = []


class Command:
    """What lasts over one command, which may execute twice: the sweeps, then the study."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.began = time.monotonic()
        self.retried: set[str] = set()


class StudyListener(Protocol):
    """Is told what happens; live.py shows it."""

    def started(self, planned: PlannedRun, slot: str) -> None: ...
    def progress(self, planned: PlannedRun, latest: Progress) -> None: ...
    def ended(self, planned: PlannedRun, made: Record) -> None: ...
    def note(self, text: str) -> None: ...
    def refresh(self, left_s: float | None) -> None: ...


class StudyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended: exit code, the sentence that says why, whether before the end of the list."""

    exit_code: int
    reason: str
    halted: bool = False


@contextmanager
def only_one(store: Store, name: str) -> Iterator[None]:
    """Holds a study's lock. Raises StoreError while another harness is at work on it."""
    handle = lock_file(store.root / "studies" / f"{name}.lock")
    if handle is None:
        raise StoreError(
            str(store.root),
            f"nobody else at work on the study {name!r}",
            "another harness that is",
            "Wait for its end, or give this one another --name or --store.",
        )
    try:
        yield
    finally:
        handle.close()


class Executor:
    """Makes the runs of one study, with one command's options."""

    def __init__(
        self,
        study: ResolvedStudy,
        store: Store,
        trainer: NativeTrainer,
        options: StudyOptions,
        watcher: StudyListener,
        command: Command,
    ) -> None:
        self.study, self.store, self.trainer = study, store, trainer
        self.options, self.watcher, self.command = options, watcher, command
        self.slots = list(options.gpus) or [""]
        self.allowance = BudgetLimits(
            study,
            store.records(),
            began=command.began,
            max_minutes=options.max_minutes,
            split_blocks=options.split_blocks,
        )
        self.remaining: list[PlannedRun] = []
        self.concurrent_runs = ConcurrentRuns()

    def execute(self, *, sweeps: bool = False) -> StudyOutcome:
        """Makes what is left of the sweeps, or of all else. Raises HarnessError; no run is lost."""
        done = self._done()
        todo = tasks(self.study, done, len(self.slots), sweeps=sweeps)
        self.remaining = [planned for task in todo for planned in task.runs]
        if not sweeps and (spread := spread_blocks(self.study, done, len(self.slots))):
            self.watcher.note(
                f"{spread} blocks are spread over {len(self.slots)} GPUs: their speeds cannot be "
                f"compared. With --gpus for {spread} GPUs or fewer they can."
            )
        try:
            self._make(todo)
        except StopStudy as halt:
            return StudyOutcome(exit_code=halt.exit_code, reason=halt.reason, halted=True)
        return self._finished(sweeps)

    def _finished(self, sweeps: bool) -> StudyOutcome:
        missing = [planned for planned in self.study.runs if not self._is_done(planned)]
        if sweeps:
            missing = [run for run in missing if self.study.arm(run.arm).role == "retune"]
        if not missing:
            return StudyOutcome(exit_code=errors.PASS, reason="All runs are recorded.")
        if self.command.stop:
            return StudyOutcome(exit_code=errors.STOPPED_AT_LIMIT, reason=STOPPED)
        names = ", ".join(f"{planned.arm} (seed {planned.seed})" for planned in missing)
        text = f"{len(missing)} of {len(self.study.runs)} runs have no outcome: {names}."
        return StudyOutcome(
            exit_code=errors.COULD_NOT_RUN, reason=text + " The same command makes them again."
        )

    def _done(self) -> set[str]:
        return {planned.plan_id for planned in self.study.runs if self._is_done(planned)}

    def _is_done(self, planned: PlannedRun) -> bool:
        """Completed; or diverged or out of memory, which are answers too, unless to be retried."""
        statuses = {made.status for made in self.store.attempts(planned.plan_id)}
        if "completed" in statuses:
            return True
        again = self.options.retry and planned.plan_id not in self.command.retried
        return bool(statuses & set(FINAL_STATUSES)) and not again

    # the order of things ----------------------------------------------------------------------

    def _make(self, todo: list[Task]) -> None:
        """Makes the tasks in order, each on the first slot that is free. Raises what halts it."""
        queues: dict[str, list[PlannedRun]] = {slot: [] for slot in self.slots}
        working: dict[Future[Record | None], tuple[str, PlannedRun]] = {}
        halt: Exception | None = None
        with ThreadPoolExecutor(max_workers=len(self.slots)) as pool:
            while working or (halt is None and (todo or any(queues.values()))):
                busy = {slot for slot, _ in working.values()}
                for slot in self.slots:
                    if halt is None and slot not in busy:
                        try:
                            planned = self._next(queues[slot], todo)
                        except Exception as error:
                            halt = error
                            continue
                        if planned is not None:
                            working[pool.submit(self._run, planned, slot)] = (slot, planned)
                for future in wait(working, POLL_S, FIRST_COMPLETED).done:
                    _, planned = working.pop(future)
                    try:
                        self._take(planned, future.result())
                    except Exception as error:
                        halt = error
                        self.command.stop.request()  # the others end, and are recorded
                left_s = todo_seconds(self.allowance.estimates, self.remaining)
                self.watcher.refresh(left_s / len(self.slots) if left_s is not None else None)
        if halt is not None:
            raise halt

    def _next(self, queue: list[PlannedRun], todo: list[Task]) -> PlannedRun | None:
        """The next run of a slot: of its own task, else of a new one. Raises Halt at a limit."""
        while queue or todo:
            if self.command.stop:
                raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
            self.allowance.check_failures()
            if not queue:
                if todo[0].opens:
                    together = 1 if len(todo[0].runs) > 1 else len(self.slots)
                    self.allowance.check_block(todo[0].opens, together)
                self._check_code(todo[0])
                queue += todo.pop(0).runs
            self.allowance.check_run(queue[0])
            planned = queue.pop(0)
            if not self.allowance.keeps_failing(planned.arm):
                return planned
            self.watcher.note(f"{planned.arm}, seed {planned.seed}: passed over, it keeps failing")
        return None

    def _check_code(self, task: Task) -> None:
        """Code that was edited since the study was planned would run under the wrong name."""
        arms = {arm.checkout: arm for arm in (self.study.arm(run.arm) for run in task.runs)}
        for arm in arms.values():
            request = Request(name=arm.name, base=arm.base, set=arm.set)
            said = self.trainer.at(Path(arm.checkout)).describe([request])[0]
            if said.identity is not None and said.identity.code_id != arm.identity.code_id:
                raise TrainerError(
                    arm.checkout,
                    f"the code this study was planned with ({arm.identity.code_id})",
                    f"other code ({said.identity.code_id})",
                    "Undo the edit and give the same command, or start under a new --name.",
                )

    def _take(self, planned: PlannedRun, made: Record | None) -> None:
        self.remaining.remove(planned)
        if made is None:
            return
        self.allowance.add(planned, made)
        self.watcher.ended(planned, made)

    # one run ----------------------------------------------------------------------------------

    def _run(self, planned: PlannedRun, slot: str) -> Record | None:
        """One run in one slot, under its plan's lock; None where another harness has made it."""
        stop = self.command.stop
        while (lock := self.store.lock_plan(planned.plan_id)) is None:
            if stop:
                return None
            time.sleep(HELD_POLL_S)
        with lock:
            if self._is_done(planned):
                return None
            self.command.retried.add(planned.plan_id)
            self.watcher.started(planned, slot)
            with self.concurrent_runs.joined(slot):
                return run_attempt(
                    self.store,
                    self.trainer.at(Path(self.study.arm(planned.arm).checkout)),
                    self._job(planned),
                    timeout_s=60 * self.study.limits.run_minutes,
                    stop=stop,
                    environment=gpu_environment(slot),
                    on_progress=lambda latest: self.watcher.progress(planned, latest),
                    concurrent_runs=lambda: self.concurrent_runs.most(slot),
                )

    def _job(self, planned: PlannedRun) -> RunSpec:
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
