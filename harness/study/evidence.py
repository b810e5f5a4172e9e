"""The runs of one study with their records, and why arms may not be compared.

Every comparison of a study starts from its `Evidence`. Never reads disk, never prints.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec

from harness.metrics import CORE_SCORES, QUALITY
from harness.results.copies import copies_of_records, without_copies
from harness.results.core_answers import CoreSettings
from harness.results.record import Record, sessions
from harness.results.study_plan import Arm, PlannedRun, ResolvedStudy

COMPARED_ROLES = ("leave_one_out", "add_one_in", "explicit")


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """A planned run, its deciding record (the completed one, else the last) and its session.

    `copy_of`: the seed of the arm's first run with the same losses, if that is another seed. A copy
    is no replicate of its arm's quality; its speed is one all the same.
    """

    planned: PlannedRun
    record: Record | None
    attempts: Sequence[Record] = ()
    session: int | None = None
    copy_of: int | None = None

    @property
    def completed(self) -> Record | None:
        """The record, if the run reached its end."""
        return self.record if self.record and self.record.status == "completed" else None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A study with its runs by arm: what every comparison below starts from."""

    study: ResolvedStudy
    base: Arm
    arms: list[Arm]  # compared with the base, in the study's order
    runs: dict[str, list[ArmRun]]  # by arm name, horizon and retune arms too
    elsewhere: Sequence[
        Record
    ] = ()  # completed runs of the base's configuration, not of this study

    def values(self, arm: Arm, metric: str, only: Callable[[Record], bool]) -> dict[int, float]:
        """The metric by seed over the arm's completed runs that measured it and `only` admits.

        Of a quality, copies are left out.
        """
        return {
            run.planned.seed: value
            for run in self.runs.get(arm.name, [])
            if (record := run.completed) and only(record)
            if metric not in QUALITY or run.copy_of is None
            if (value := record.metrics.get(metric)) is not None
        }

    def base_elsewhere(self, metric: str, only: Callable[[Record], bool]) -> list[float]:
        """The metric of the base's configuration in other studies of the store, one value a seed.

        They add to the base's variance, not to its mean.
        """
        found = {
            record.seed: value
            for record in self.elsewhere
            if only(record) and (value := record.metrics.get(metric)) is not None
        }
        return list(found.values())

    def measures(self, metric: str) -> bool:
        """Whether any completed run of the study has the metric."""
        return metric in self._measured

    @cached_property
    def _measured(self) -> set[str]:
        records = (run.completed for runs in self.runs.values() for run in runs)
        return {
            name
            for record in records
            if record
            for name, value in record.metrics.items()
            if value is not None
        }


def gather(study: ResolvedStudy, records: Iterable[Record]) -> Evidence:
    """The records of a store, assigned to the runs of one study."""
    records = list(records)
    session_of = {
        (record.plan_id, record.attempt): number
        for number, session in enumerate(sessions(records), start=1)
        for record in session
    }
    attempts: dict[str, list[Record]] = {}
    for record in records:
        attempts.setdefault(record.plan_id, []).append(record)
    runs: dict[str, list[ArmRun]] = {}
    for planned in study.runs:
        tried = sorted(attempts.get(planned.plan_id, ()), key=lambda record: record.started_at)
        finished = [record for record in tried if record.status == "completed"]
        deciding = finished[0] if finished else tried[-1] if tried else None
        session = session_of[deciding.plan_id, deciding.attempt] if deciding else None
        runs.setdefault(planned.arm, []).append(
            ArmRun(planned=planned, record=deciding, attempts=tried, session=session)
        )
    base = next(arm for arm in study.arms if arm.role == "base")
    arms = [arm for arm in study.arms if arm.role in COMPARED_ROLES]
    runs = {arm: _with_copies(of_arm) for arm, of_arm in runs.items()}
    planned_ids = {planned.plan_id for planned in study.runs}
    elsewhere = [
        record
        for record in records
        if record.status == "completed"
        and record.identity == base.identity
        and record.plan_id not in planned_ids
    ]
    return Evidence(
        study=study, base=base, arms=arms, runs=runs, elsewhere=without_copies(elsewhere)
    )


def _with_copies(runs: Sequence[ArmRun]) -> list[ArmRun]:
    """The runs of one arm, with `copy_of` where a run repeats another one."""
    done = [(index, run.completed) for index, run in enumerate(runs) if run.completed]
    copies = copies_of_records([record for _, record in done])
    first = {done[copy][0]: done[original][1].seed for copy, original in copies.items()}
    return [replace(run, copy_of=first.get(index)) for index, run in enumerate(runs)]


def incomparable_reason(evidence: Evidence, arm: Arm) -> str | None:
    """Why an arm may not be compared with the base in any metric; None where it may."""
    for name in ("protocol", "data_id"):
        own, base = getattr(arm.identity, name), getattr(evidence.base.identity, name)
        if own != base:
            return f"{name} differs from the base's ({own} against {base}): not compared"
    return None


def evaluation_reason(evidence: Evidence, arm: Arm, metric: str) -> str | None:
    """Why scores of CORE may not be compared: another bundle, or other evaluation settings."""
    if metric not in CORE_SCORES:
        return None
    base, own = (
        {
            core
            for run in evidence.runs.get(who.name, [])
            if run.record and isinstance(core := run.record.core, CoreSettings)
        }
        for who in (evidence.base, arm)
    )
    unlike = [(one, other) for one in own for other in base if one != other]
    if not unlike:
        return None
    one, other = map(msgspec.structs.asdict, unlike[0])
    name = next(name for name in one if one[name] != other[name])
    return f"core.{name} differs from the base's ({one[name]} against {other[name]}): not compared"


def status_counts(runs: Sequence[ArmRun]) -> dict[str, int]:
    """Runs by status; `not run` for those without a record."""
    return dict(Counter(str(run.record.status) if run.record else "not run" for run in runs))


def unfinished_reason(runs: Sequence[ArmRun]) -> str:
    """'0 of 3 runs completed: 2 diverged (loss is nan), 1 not run'."""
    counts = status_counts(runs)
    reasons = {str(run.record.status): run.record.reason for run in runs if run.record}
    parts = [
        f"{count} {status}" + (f" ({reasons[status]})" if reasons.get(status) else "")
        for status, count in counts.items()
        if status != "completed"
    ]
    head = f"{counts.get('completed', 0)} of {len(runs)} runs completed"
    return f"{head}: {', '.join(parts)}" if parts else head
