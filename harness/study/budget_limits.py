"""The limits of a study: time, total time and failures.

`BudgetLimits` checks them before each block and each run, with the estimates of budget.py, and
raises `StopStudy` where one would be exceeded.
"""

import time
from collections import Counter
from collections.abc import Sequence

from harness import errors
from harness.format import duration
from harness.results.record import Record
from harness.results.study_plan import PlannedRun, ResolvedStudy
from harness.study.budget import Estimates, remaining_seconds

RESUME = "Re-run the same command to resume."
STOPPED = f"Stopped by Ctrl-C or SIGTERM. {RESUME}"


class StopStudy(Exception):
    """No further run is started; runs that have started continue to their end."""

    def __init__(self, exit_code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code, self.reason = exit_code, reason


class BudgetLimits:
    """The limits of a study and of one command. `began`: its start, by time.monotonic()."""

    def __init__(
        self,
        study: ResolvedStudy,
        records: Sequence[Record],
        *,
        began: float,
        max_minutes: float | None,
        allow_partial_blocks: bool,
    ) -> None:
        self.study, self.began = study, began
        self.max_minutes, self.allow_partial_blocks = max_minutes, allow_partial_blocks
        self.estimates = Estimates(study, records)
        plan_ids = {planned.plan_id for planned in study.runs}
        self.used_s = sum(record.wall_s for record in records if record.plan_id in plan_ids)
        self.failures_in_a_row: list[Record] = []
        self.failures_by_arm: Counter[str] = Counter()

    def add(self, planned: PlannedRun, record: Record) -> None:
        """Adds a finished run."""
        self.estimates.add(record)
        self.used_s += record.wall_s
        if record.status == "failed":
            self.failures_in_a_row.append(record)
            self.failures_by_arm[planned.arm] += 1
        elif record.status != "interrupted":
            self.failures_in_a_row.clear()

    def keeps_failing(self, arm: str) -> bool:
        """Whether to skip an arm for the rest of this command."""
        return self.failures_by_arm[arm] >= self.study.limits.failures

    def check_failures(self) -> None:
        """Raises StopStudy after too many failures in a row, which point to the machine."""
        count = len(self.failures_in_a_row)
        if count < self.study.limits.failures:
            return
        last = self.failures_in_a_row[-1]
        hint = f"{last.hint} " if last.hint else ""
        raise StopStudy(
            errors.COULD_NOT_RUN,
            f"Stopped: {count} runs in a row failed (limits.failures: "
            f"{self.study.limits.failures}). Reason of the last: {last.reason}. {hint}Repair the "
            "cause, then re-run the same command to resume.",
        )

    def check_block(self, block: Sequence[PlannedRun], parallel: int) -> None:
        """Raises StopStudy before a block that cannot finish: its speeds could not be compared.

        `parallel`: how many of its runs are made at a time.
        """
        limit, total_s = self._limit(), remaining_seconds(self.estimates, block)
        if limit is None or total_s is None or self.allow_partial_blocks:
            return
        (left_s, hint), needed_s = limit, total_s / parallel
        if needed_s <= left_s:
            return
        text = (
            f"Stopped: the next block takes about {duration(needed_s)}, and "
            f"{duration(max(0.0, left_s))} are left."
        )
        if self.max_minutes is not None and needed_s > 60 * self.max_minutes:
            raise StopStudy(
                errors.COULD_NOT_RUN,
                f"{text} No block fits into --max-minutes {self.max_minutes:g}: allow more "
                "minutes, or pass --allow-partial-blocks.",
            )
        raise StopStudy(errors.STOPPED_AT_LIMIT, f"{text} {hint}")

    def check_run(self, planned: PlannedRun) -> None:
        """Raises StopStudy before a run that would exceed a limit."""
        limit = self._limit()
        if limit is None:
            return
        left_s, hint = limit
        needed_s = self.estimates.wall_s(planned.arm) or 0.0
        if needed_s > left_s or left_s <= 0:
            raise StopStudy(
                errors.STOPPED_AT_LIMIT,
                f"Stopped: the next run takes about {duration(needed_s)}, and "
                f"{duration(max(0.0, left_s))} are left. {hint}",
            )

    def _limit(self) -> tuple[float, str] | None:
        """(seconds left, what to do then) of the limit that is reached first; None without one."""
        limits = []
        if (minutes := self.max_minutes) is not None:
            left_s = 60 * minutes - (time.monotonic() - self.began)
            limits.append((left_s, f"{RESUME} (--max-minutes {minutes:g})"))
        if (total := self.study.limits.total_minutes) is not None:
            hint = f"Raise limits.total_minutes ({total:g}), then re-run the same command."
            limits.append((60 * total - self.used_s, hint))
        return min(limits) if limits else None
