"""Trials one after the other, on every slot, until the budget or a limit ends them.

Each slot is a worker with a sampler of its own on the shared storage; more commands on the same
storage, on this machine or others, are more workers. Several of them may begin their last trials
at once, so that a budget of trials is exceeded by at most one less than there are workers. A
trial that fails is an answer; only when one run after the other dies is the base made once more,
to tell a machine that is broken from a region that is.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from harness import errors
from harness.config.search_file import SearchFile
from harness.runner.process import Stop
from harness.search.base_noise import BaseNoise
from harness.search.storage import fail_silent, retry_later
from harness.search.trial import Interrupted, TrialResult, TrialRunner, release, told
from harness.study.budget_limits import STOPPED, StopStudy

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

LOOK_S = 0.5  # how often the end of other workers' trials is looked for


class SearchBudget:
    """What the trials of a search may still take, over all its workers and commands."""

    def __init__(
        self, file: SearchFile, noise: BaseNoise, began: float, max_minutes: float | None
    ) -> None:
        self.file, self.noise = file, noise
        self.began, self.max_minutes = began, max_minutes

    def check(self, trials: "list[FrozenTrial]") -> str | None:
        """Why no further trial is begun; None where one may be. Raises Halt at a time limit."""
        from optuna.trial import TrialState

        budget, price = self.file.budget, self.file.limits.price
        answers = [answer for trial in trials if (answer := told(trial)) is not None]
        again = {trial.user_attrs.get("retry_of") for trial in trials}
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        ended = sum(
            trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.number not in again
            for trial in trials
        )
        if budget.trials is not None and ended + running >= budget.trials:
            return f"{ended} trials of {budget.trials} have ended."
        gpu_s = sum(answer.gpu_s for answer in answers)
        if budget.gpu_seconds is not None and gpu_s >= budget.gpu_seconds:
            return f"{gpu_s:,.0f} of {budget.gpu_seconds:,.0f} GPU-seconds are used."
        if budget.usd is not None and price is not None and gpu_s / 3600 * price >= budget.usd:
            return f"{gpu_s / 3600 * price:,.2f} of {budget.usd:,.2f} USD are used."
        self._check_time(answers)
        return None

    def _check_time(self, answers: list[TrialResult]) -> None:
        whole = [answer.wall_s for answer in answers if answer.outcome == "completed"]
        whole = [seconds for seconds in whole if seconds > 0] or [self.noise.wall_s]
        needs_s = sum(whole) / len(whole)
        limits = []
        if self.max_minutes is not None:
            left_s = 60 * self.max_minutes - (time.monotonic() - self.began)
            limits.append(
                (left_s, f"The same command goes on (--max-minutes {self.max_minutes:g}).")
            )
        if (total := self.file.limits.total_minutes) is not None:
            left_s = 60 * total - sum(answer.wall_s for answer in answers)
            hint = f"Raise limits.total_minutes ({total:g}) and the same command goes on."
            limits.append((left_s, hint))
        for left_s, hint in limits:
            if needs_s > left_s:
                text = f"A trial needs about {needs_s:.0f} s, {max(0.0, left_s):.0f} s are left."
                raise StopStudy(errors.STOPPED_AT_LIMIT, f"{text} {hint}")


class WorkerPool:
    """The workers of one command. `open_study` opens the storage for one of them, by its slot."""

    def __init__(
        self,
        open_study: "Callable[[str], Study]",
        trying: TrialRunner,
        allowance: SearchBudget,
        stop: Stop,
        base_works: Callable[[str], bool],
    ) -> None:
        self.open_study, self.trying, self.allowance = open_study, trying, allowance
        self.stop, self.base_works = stop, base_works
        self._asking = threading.Lock()  # one at a time looks at what is left, and takes it
        self._failed_in_a_row: list[int] = []  # numbers of trials
        self._halted = False

    def work(self) -> str:
        """Makes trials until none is left, and says why it ended.

        Raises Halt at a limit, and whatever ended a worker: TrainerError, StoreError.
        """
        slots = self.trying.slots.names
        studies = {slot: self.open_study(slot) for slot in slots}
        while True:
            release(studies[slots[0]])
            with ThreadPoolExecutor(max_workers=len(slots)) as pool:
                workers = [pool.submit(self._worker, studies[slot], slot) for slot in slots]
            for ended in workers:
                ended.result()
            if (reason := self._over(studies[slots[0]])) is not None:
                return reason

    def _worker(self, study: "Study", slot: str) -> None:
        """The trials of one slot. What goes wrong here ends the others, too."""
        try:
            while self._one(study, slot):
                pass
        except StopStudy:
            self._halted = True  # the others end the trials that they are at
            raise
        except BaseException:
            self.stop.request()
            raise

    def _one(self, study: "Study", slot: str) -> bool:
        """One trial; False where the budget has none left. Raises Halt at a limit."""
        begun: list[Trial] = []
        with ExitStack() as asking:
            asking.enter_context(self._asking)
            if self.stop:
                raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
            if self._halted or self.allowance.check(study.get_trials(deepcopy=False)) is not None:
                return False

            def one(trial: "Trial") -> list[float]:
                begun.append(trial)
                asking.close()  # it is running now, so that the next may look
                return self.trying(trial, slot)

            try:
                study.optimize(one, n_trials=1)
            except Exception as error:
                if self._given_up(study, begun):
                    return True  # the trial that took its place is told from its record
                self._again(study, begun)
                if isinstance(error, Interrupted):
                    raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED) from None
                raise
        self._check_machine(study, begun[0].number, slot)
        return True

    def _given_up(self, study: "Study", begun: "list[Trial]") -> bool:
        """Whether another worker took this one for dead, and put its trial in line again."""
        again = {trial.user_attrs.get("retry_of") for trial in study.get_trials(deepcopy=False)}
        return any(trial.number in again for trial in begun)

    def _again(self, study: "Study", begun: "list[Trial]") -> None:
        """Puts a trial that got no answer in line for the next command."""
        for trial in begun:
            frozen = study.get_trials(deepcopy=False)[trial.number]
            if told(frozen) is None:
                retry_later(study, frozen)

    def _check_machine(self, study: "Study", number: int, slot: str) -> None:
        """Raises Halt where the base fails too, by now; then those trials are no answers."""
        trials = study.get_trials(deepcopy=False)
        answer = told(trials[number])
        with self._asking:
            if answer is None or answer.outcome != "failed":
                self._failed_in_a_row.clear()
                return
            self._failed_in_a_row.append(number)
            if len(self._failed_in_a_row) < self.trying.plan.file.limits.failures:
                return
            failed, self._failed_in_a_row = self._failed_in_a_row, []
        if not self.base_works(slot) and not self.stop:
            for at in failed:
                retry_later(study, trials[at])
            raise StopStudy(
                errors.COULD_NOT_RUN,
                f"One trial after the other failed, and so does the base now: {answer.reason}. "
                "Repair the machine; then the same command makes those trials again.",
            )

    def _over(self, study: "Study") -> str | None:
        """Why it is over, once the trials of other commands have ended; None: there are more."""
        while True:
            reason = self.allowance.check(trials := study.get_trials(deepcopy=False))
            if reason is None or not any(trial.state.name == "RUNNING" for trial in trials):
                return reason
            if self.stop:
                raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
            fail_silent(study)
            release(study)
            time.sleep(LOOK_S)
