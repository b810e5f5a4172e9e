"""In which order the runs of a study are made, and which stay together.

Sweeps first, then blocks with the interrupted ones first, then horizons. A task stays on one GPU:
a whole block where there are at least as many blocks as GPUs, because speeds are compared inside
blocks and two GPUs are two environments; else every run is a task of its own. Pure.
"""

from collections.abc import Sequence

import msgspec

from harness.results.study_plan import PlannedRun, ResolvedStudy


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that follow each other on one GPU.

    `opens`: the untouched block that this task begins, which must fit into the time that is left.
    """

    runs: list[PlannedRun]
    opens: list[PlannedRun] = []


def tasks(study: ResolvedStudy, done: set[str], slots: int, *, sweeps: bool) -> list[Task]:
    """What is left to do: of the sweeps, or of everything else. `done`: plan ids."""
    left = [planned for planned in study.runs if planned.plan_id not in done]
    roles = {arm.name: arm.role for arm in study.arms}
    if sweeps:
        return [Task(runs=[planned]) for planned in left if roles[planned.arm] == "retune"]
    horizons = [Task(runs=[planned]) for planned in left if roles[planned.arm] == "horizon"]
    begun, fresh = _blocks(study, left)
    found = []
    if len(begun) + len(fresh) >= slots:
        found = [Task(runs=block) for block in begun]
        found += [Task(runs=block, opens=block) for block in fresh]
    else:
        found = [Task(runs=[planned]) for block in begun for planned in block]
        for block in fresh:
            found.append(Task(runs=block[:1], opens=block))
            found += [Task(runs=[planned]) for planned in block[1:]]
    return found + horizons


def spread_blocks(study: ResolvedStudy, done: set[str], slots: int) -> int:
    """How many blocks are spread over several GPUs, so that their speeds cannot be compared."""
    begun, fresh = _blocks(study, [run for run in study.runs if run.plan_id not in done])
    blocks = len(begun) + len(fresh)
    return blocks if blocks < slots else 0


def _blocks(
    study: ResolvedStudy, left: Sequence[PlannedRun]
) -> tuple[list[list[PlannedRun]], list[list[PlannedRun]]]:
    """What is left of the interrupted blocks, and the untouched ones."""
    begun: list[list[PlannedRun]] = []
    fresh: list[list[PlannedRun]] = []
    for block in dict.fromkeys(run.block for run in study.runs if run.block is not None):
        whole = [run for run in study.runs if run.block == block]
        rest = [run for run in left if run.block == block]
        if rest:
            (fresh if len(rest) == len(whole) else begun).append(rest)
    return begun, fresh
