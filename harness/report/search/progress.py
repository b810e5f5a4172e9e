"""Prints the progress of a search: one line for each step and each trial that ended."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from harness.report.search.wording import base_lines, no_pruning, plural, trial_line
from harness.report.study.progress import StudyProgress
from harness.results.record import Record
from harness.results.store import Store
from harness.results.study_plan import ResolvedStudy
from harness.search.base import BaseNoise
from harness.search.objective import Objective
from harness.search.trial import TrialResult
from harness.study.executor import StudyListener

if TYPE_CHECKING:
    from rich.console import Console


class SearchProgress:
    """A `SearchListener` that prints on a console."""

    def __init__(self, console: "Console", store: Store) -> None:
        self.console, self.store = console, store

    def recovered(self, records: list[Record]) -> None:
        for record in records:
            run = f"{record.launch.arm or record.plan_id}, seed {record.seed}"
            self.note(f"Recovered {run} from a killed harness: recorded as {record.status}.")

    def base_ready(self, objective: Objective, noise: BaseNoise) -> None:
        for line in base_lines(noise):
            self.note(line)
        if (reason := no_pruning(objective, noise)) is not None:
            self.note(reason)

    def trial_ended(self, number: int, result: TrialResult, values: list[float] | None) -> None:
        self.note(trial_line(number, result, values))

    def confirming(self, study: ResolvedStudy) -> AbstractContextManager[StudyListener]:
        candidates = plural(sum(arm.name != "base" for arm in study.arms), "candidate")
        self.note(f"Confirming {candidates} on held-out seeds: study {study.study}")
        return StudyProgress(self.console, study, self.store)

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
