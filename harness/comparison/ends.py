"""Where runs end: cut runs, planned stops, and the step at which two sides are compared.

A run that is short of its own planned steps is cut: it is named and not compared as an equal; so is
a run of an unknown schedule with fewer steps or evaluations than others of its side. Where
all runs of both sides stop early at an evaluation, each side at one step, their schedule is longer
than the run by design, and they are compared at the last evaluation that all of them have. Runs of
different planned lengths are compared at their own ends. Pure.
"""

import msgspec

from harness.comparison.comparability import SIDES, Runs
from harness.results.logs.run_log import LoggedRun, at_evaluation


def align_ends(a: Runs, b: Runs) -> tuple[list[LoggedRun], list[LoggedRun], list[str]]:
    """The runs at the step where they are compared, and findings about their ends."""
    a, b = _end_early(a), _end_early(b)
    stops = (_planned_stop(a), _planned_stop(b))
    step = _common_evaluation(a, b) if None not in stops else None
    lone = len(a) == len(b) == 1  # a lone run may have been cut: only equal stops are a plan
    if step is None or (lone and stops[0] != stops[1]):
        return list(a), list(b), _cut_runs(a, b)
    where = [
        f"{label} at step {stop:,} of {side[0].planned_steps or 0:,}"
        for label, stop, side in zip(SIDES, stops, (a, b), strict=True)
    ]
    finding = (
        f"every run stops before the end of its schedule ({', '.join(where)}): compared at step "
        f"{step:,}, the last evaluation that all of them have"
    )
    cut = [[_stopped(run, step) for run in side] for side in (a, b)]
    return cut[0], cut[1], [finding]


def _end_early(side: Runs) -> list[LoggedRun]:
    """Runs without planned steps that are shorter than others of their side are cut, too."""
    longest = max(run.steps for run in side)
    most = max(len(run.evaluations) for run in side)
    marked = []
    for run in side:
        if run.planned_steps is None and not run.ending:
            count = len(run.evaluations)
            reason = None
            if 0 < run.steps < longest:
                reason = f"it ends at step {run.steps:,}, others of its side at {longest:,}"
            elif not longest and 0 < count < most:
                reason = f"it has {count:,} evaluations, others of its side {most:,}"
            run = msgspec.structs.replace(run, ending=reason)
        marked.append(run)
    return marked


def _planned_stop(side: Runs) -> int | None:
    """The step at which every run of a side stops early, at an evaluation; None without one."""
    stops = {
        run.steps if run.ending and not run.diverged and run.evaluated_at == run.steps else None
        for run in side
    }
    return stops.pop() if len(stops) == 1 else None


def _common_evaluation(a: Runs, b: Runs) -> int | None:
    shared = set.intersection(
        *({run.evaluated_at, *(at.step for at in run.evaluations)} for run in (*a, *b))
    )
    return max((step for step in shared if step), default=None)


def _stopped(run: LoggedRun, step: int) -> LoggedRun:
    return msgspec.structs.replace(at_evaluation(run, step), ending=None)


def _cut_runs(a: Runs, b: Runs) -> list[str]:
    return [
        f"{run.source} of {label} has no result: {run.ending}"
        for label, side in zip(SIDES, (a, b), strict=True)
        for run in side
        if run.ending and not run.diverged
    ]
