"""What a study may still spend: time, money in its form of time, and failures.

Says before each block and each run whether to go on, from the estimates of budget.py; raises `Halt`
where not. Holds the counts, starts nothing, prints nothing.
"""

import time
from collections import Counter
from collections.abc import Sequence

from harness import errors
from harness.results.record import Record
from harness.results.study_plan import PlannedRun, ResolvedStudy
from harness.study.budget import Estimates, todo_seconds

STOPPED = "Stopped as asked. The same command goes on."


class StopStudy(Exception):
    """No further run is started; those at work go on to their end."""

    def __init__(self, exit_code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code, self.reason = exit_code, reason


class BudgetLimits:
    """The limits of a study and of one command. `began`: of the command, by time.monotonic()."""

    def __init__(
        self,
        study: ResolvedStudy,
        records: Sequence[Record],
        *,
        began: float,
        max_minutes: float | None,
        split_blocks: bool,
    ) -> None:
        self.study, self.began = study, began
        self.max_minutes, self.split_blocks = max_minutes, split_blocks
        self.estimates = Estimates(study, records)
        ours = {planned.plan_id for planned in study.runs}
        self.spent_s = sum(made.wall_s for made in records if made.plan_id in ours)
        self.in_a_row: list[Record] = []  # the failures since the last run that did not fail
        self.failures_of: Counter[str] = Counter()

    def add(self, planned: PlannedRun, made: Record) -> None:
        """Takes in a finished run."""
        self.estimates.add(made)
        self.spent_s += made.wall_s
        if made.status == "failed":
            self.in_a_row.append(made)
            self.failures_of[planned.arm] += 1
        elif made.status != "interrupted":
            self.in_a_row.clear()

    def keeps_failing(self, arm: str) -> bool:
        """Whether to pass over an arm for the rest of this command."""
        return self.failures_of[arm] >= self.study.limits.failures

    def check_failures(self) -> None:
        """Raises Halt when one run after the other fails: then it is the machine and not an arm."""
        if len(self.in_a_row) < self.study.limits.failures:
            return
        last = self.in_a_row[-1]
        raise StopStudy(
            errors.COULD_NOT_RUN,
            f"{len(self.in_a_row)} runs in a row failed (limits.failures). The last: "
            f"{last.reason}. {last.hint or ''} Then the same command goes on.",
        )

    def check_block(self, block: Sequence[PlannedRun], slots: int) -> None:
        """Raises Halt before a block that cannot finish: its speeds could not be compared.

        `slots`: how many of its runs go on at the same time.
        """
        limit, needs_s = self._limit(), todo_seconds(self.estimates, block)
        if limit is None or needs_s is None or self.split_blocks:
            return
        left_s, hint = limit
        needs_s /= slots
        if needs_s <= left_s:
            return
        text = f"A block needs about {_minutes(needs_s)}, {_minutes(left_s)} are left. {hint}"
        if self.max_minutes is not None and needs_s > 60 * self.max_minutes:
            text += " No block fits into that: allow more, or give --allow-partial-blocks."
            raise StopStudy(errors.COULD_NOT_RUN, text)
        raise StopStudy(errors.STOPPED_AT_LIMIT, text)

    def check_run(self, planned: PlannedRun) -> None:
        """Raises Halt before a run that would go beyond a limit."""
        limit = self._limit()
        if limit is None:
            return
        left_s, hint = limit
        needs_s = self.estimates.wall_s(planned.arm) or 0.0
        if needs_s > left_s or left_s <= 0:
            text = f"A run needs about {_minutes(needs_s)}, {_minutes(left_s)} are left. {hint}"
            raise StopStudy(errors.STOPPED_AT_LIMIT, text)

    def _limit(self) -> tuple[float, str] | None:
        """(seconds left, what to do then) of the nearer limit; None without any."""
        found = []
        if (minutes := self.max_minutes) is not None:
            left_s = 60 * minutes - (time.monotonic() - self.began)
            found.append((left_s, f"The same command goes on (--max-minutes {minutes:g})."))
        if (total := self.study.limits.total_minutes) is not None:
            hint = f"Raise limits.total_minutes ({total:g}) and the same command goes on."
            found.append((60 * total - self.spent_s, hint))
        return min(found) if found else None


def _minutes(seconds: float) -> str:
    seconds = max(0.0, seconds)
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
