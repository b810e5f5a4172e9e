"""Prints the progress of a search: the base, each trial that ended, and the confirmation."""

from harness.report.search.wording import base_lines, no_pruning, trial_line
from harness.report.study.progress import StudyProgress
from harness.search.base import BaseNoise
from harness.search.engine import SearchListener
from harness.search.objective import Objective
from harness.search.trial import TrialResult


class SearchProgress(StudyProgress, SearchListener):
    """The `SearchListener` of the command line."""

    def base_ready(self, objective: Objective, noise: BaseNoise) -> None:
        for line in base_lines(noise):
            self.message(line)
        if (reason := no_pruning(objective, noise)) is not None:
            self.message(reason)

    def trial_ended(self, number: int, result: TrialResult, values: list[float] | None) -> None:
        self.message(trial_line(number, result, values))
