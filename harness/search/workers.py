"""Runs trials one after the other on every GPU, until the budget or a limit ends the search.

Each GPU has a worker with its own sampler on the shared storage; other commands on the same
storage, on this machine or another, are further workers. Several of them may create their last
trials at the same moment: those beyond the budget are marked and not run. A trial that fails is a
result. If several fail in a row, the base is run again, to
distinguish a broken machine from a bad region of the space.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from harness import errors
from harness.config.search_file import SearchFile
from harness.format import duration
from harness.runner.process import Stop
from harness.search.base import BaseNoise
from harness.search.points import is_new
from harness.search.storage import (
    RETRY_OF,
    SURPLUS,
    fail_stale_trials,
    queue_again,
    requeue_lost_trials,
)
from harness.search.trial import (
    Interrupted,
    TrialResult,
    TrialRunner,
    fail_abandoned_trials,
    result_of,
)
from harness.study.budget_limits import RESUME, STOPPED, StopStudy

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

POLL_S = 0.5  # how often the trials of other workers are checked


class SearchBudget:
    """What the trials of a search may still use, over all its workers and commands."""

    def __init__(
        self,
        file: SearchFile,
        noise: BaseNoise,
        began: float,
        max_minutes: float | None,
        points: int | None = None,
    ) -> None:
        """`points`: of a grid, with the base; None where trials can be drawn without end."""
        self.file, self.noise = file, noise
        limits = [one for one in (file.budget.trials, points) if one is not None]
        self.trials = min(limits, default=None)
        self.began, self.max_minutes = began, max_minutes

    def used_up(self, trials: "list[FrozenTrial]") -> str | None:
        """Why no further trial starts; None if one may. Raises StopStudy at a time limit."""
        from optuna.trial import TrialState

        budget, price = self.file.budget, self.file.limits.price
        results = [result for trial in trials if (result := result_of(trial)) is not None]
        if self.trials is not None and self._is_drawn(trials):
            repeated = {trial.user_attrs.get(RETRY_OF) for trial in trials}
            final = (TrialState.COMPLETE, TrialState.PRUNED)
            ended = sum(one.state in final and one.number not in repeated for one in trials)
            return f"{ended} of {self.trials} trials have ended."
        gpu_s = sum(result.gpu_s for result in results)
        if budget.gpu_seconds is not None and gpu_s >= budget.gpu_seconds:
            return f"{gpu_s:,.0f} of {budget.gpu_seconds:,.0f} GPU-seconds are used."
        if budget.usd is not None and price is not None and gpu_s / 3600 * price >= budget.usd:
            return f"{gpu_s / 3600 * price:,.2f} of {budget.usd:,.2f} USD are used."
        self._check_time(results)
        return None

    def _is_drawn(self, trials: "list[FrozenTrial]") -> bool:
        """Whether every trial of the budget has begun, and none waits to be run again."""
        waiting = any(trial.state.name == "WAITING" for trial in trials)
        return not waiting and sum(map(is_new, trials)) >= (self.trials or 0)

    def is_surplus(self, trials: "list[FrozenTrial]", number: int) -> bool:
        """Whether a trial that has begun is one too many: the lowest numbers are run."""
        before, original = trials[:number], trials[number].user_attrs.get(RETRY_OF)
        if original is not None:
            return any(one.user_attrs.get(RETRY_OF) == original for one in before)
        return self.trials is not None and sum(map(is_new, before)) >= self.trials

    def _check_time(self, results: list[TrialResult]) -> None:
        complete = [one.wall_s for one in results if one.outcome == "completed" and one.wall_s > 0]
        complete = complete or [self.noise.wall_s]
        needs_s = sum(complete) / len(complete)
        limits = []
        if self.max_minutes is not None:
            left_s = 60 * self.max_minutes - (time.monotonic() - self.began)
            option = f"--max-minutes {self.max_minutes:g}"
            limits.append((left_s, f"({option}). {RESUME}"))
        if (total := self.file.limits.total_minutes) is not None:
            left_s = 60 * total - sum(result.wall_s for result in results)
            hint = f"(limits.total_minutes: {total:g}). Raise this limit. {RESUME}"
            limits.append((left_s, hint))
        for left_s, hint in limits:
            if needs_s > left_s:
                left = duration(max(0.0, left_s))
                text = f"A trial takes about {duration(needs_s)}, and {left} are left {hint}"
                raise StopStudy(errors.STOPPED_AT_LIMIT, text)


class _Surplus(Exception):
    """The trial is one more than the budget has: another worker began the last one."""


class WorkerPool:
    """The workers of one command.

    `open_study` gives the Optuna study for the worker of a GPU; `base_runs` runs the base again
    and returns whether it completed.
    """

    def __init__(
        self,
        open_study: "Callable[[str], Study]",
        run_trial: TrialRunner,
        budget: SearchBudget,
        stop: Stop,
        base_runs: Callable[[str], bool],
    ) -> None:
        self.open_study, self.run_trial, self.budget = open_study, run_trial, budget
        self.stop, self.base_runs = stop, base_runs
        self._starting = threading.Lock()  # one worker at a time checks the budget and starts
        self._failed_in_a_row: list[int] = []  # numbers of trials
        self._halted = False

    def run(self) -> str:
        """Runs trials until the budget is used up and returns why it ended.

        Raises StopStudy at a limit, and the error that ended a worker: TrainerError, StoreError.
        """
        gpus = self.run_trial.pool.names
        studies = {gpu: self.open_study(gpu) for gpu in gpus}
        while True:
            fail_abandoned_trials(studies[gpus[0]])
            requeue_lost_trials(studies[gpus[0]])
            with ThreadPoolExecutor(max_workers=len(gpus)) as threads:
                workers = [threads.submit(self._work, studies[gpu], gpu) for gpu in gpus]
            for worker in workers:
                worker.result()
            if (reason := self._wait_for_others(studies[gpus[0]])) is not None:
                return reason

    def _work(self, study: "Study", gpu: str) -> None:
        """The trials of one GPU. An error here ends the other workers, too."""
        try:
            while self._run_one(study, gpu):
                pass
        except StopStudy:
            self._halted = True  # the other workers finish their current trials
            raise
        except BaseException:
            self.stop.request()
            raise

    def _run_one(self, study: "Study", gpu: str) -> bool:
        """Runs one trial; False if the budget is used up. Raises StopStudy at a limit."""
        started: list[Trial] = []
        with ExitStack() as starting:
            starting.enter_context(self._starting)
            if self.stop:
                raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
            if self._halted or self.budget.used_up(study.get_trials(deepcopy=False)) is not None:
                return False

            def objective(trial: "Trial") -> list[float]:
                if self.budget.is_surplus(study.get_trials(deepcopy=False), trial.number):
                    trial.set_user_attr(SURPLUS, True)
                    raise _Surplus
                started.append(trial)
                starting.close()  # the trial is running: the next worker may check the budget
                return self.run_trial(trial, gpu)

            try:
                study.optimize(objective, n_trials=1)
            except _Surplus:
                return False
            except Exception as error:
                if self._was_replaced(study, started):
                    return True  # the trial queued instead takes its result from the record
                self._queue_unfinished(study, started)
                if isinstance(error, Interrupted):
                    raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED) from None
                raise
        self._check_machine(study, started[0].number, gpu)
        return True

    def _was_replaced(self, study: "Study", started: "list[Trial]") -> bool:
        """Whether another worker took this one for dead and queued its trial again."""
        repeated = {trial.user_attrs.get(RETRY_OF) for trial in study.get_trials(deepcopy=False)}
        return any(trial.number in repeated for trial in started)

    def _queue_unfinished(self, study: "Study", started: "list[Trial]") -> None:
        """Queues a trial without a result for the next command."""
        for trial in started:
            frozen = study.get_trials(deepcopy=False)[trial.number]
            if result_of(frozen) is None:
                queue_again(study, frozen)

    def _check_machine(self, study: "Study", number: int, gpu: str) -> None:
        """After several failures in a row: raises StopStudy if the base fails now, too.

        The failed trials are then queued again, because the machine was at fault.
        """
        trials = study.get_trials(deepcopy=False)
        result = result_of(trials[number])
        with self._starting:
            if result is None or result.outcome != "failed":
                self._failed_in_a_row.clear()
                return
            self._failed_in_a_row.append(number)
            if len(self._failed_in_a_row) < self.run_trial.plan.file.limits.failures:
                return
            failed, self._failed_in_a_row = self._failed_in_a_row, []
        if not self.base_runs(gpu) and not self.stop:
            for at in failed:
                queue_again(study, trials[at])
            raise StopStudy(
                errors.COULD_NOT_RUN,
                f"{len(failed)} trials in a row failed, and the base now fails too: "
                f"{result.reason}. Repair the machine, then re-run the same command to run these "
                "trials again.",
            )

    def _wait_for_others(self, study: "Study") -> str | None:
        """Why the search has ended, once no trial is running; None if trials are left to run."""
        while True:
            reason = self.budget.used_up(trials := study.get_trials(deepcopy=False))
            if reason is None or not any(trial.state.name == "RUNNING" for trial in trials):
                return reason
            if self.stop:
                raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
            fail_stale_trials(study)
            fail_abandoned_trials(study)
            time.sleep(POLL_S)
