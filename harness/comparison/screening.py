"""Which runs of a side count as replicates of its quality, and which are named.

Equal numbers under different seeds are copies: a trainer that fixes or ignores its seed repeats one
result. Runs of one known seed are reruns of it. Two sides of different code are compared over
seeds, because any change moves the random stream; there, copies and reruns count as one run, with
their mean. Pure.
"""

from collections.abc import Hashable, Sequence

from harness.comparison.comparability import SIDES, Runs, is_rerun
from harness.comparison.ends import align_ends
from harness.comparison.outliers import mark_blow_ups
from harness.metrics import LOSSES, QUALITY, SPEEDS
from harness.results.copies import find_copies
from harness.results.logs.run_log import LoggedRun

IDENTIFYING_EVALUATIONS = (
    3  # losses with four decimals: equal by chance in 1 of 10^4 pairs or fewer
)
IDENTIFYING_DECIMALS = 6


def screen(a: Runs, b: Runs) -> tuple[list[LoggedRun], list[LoggedRun], list[str]]:
    """The runs that are compared, at the step where they are compared, and findings about them."""
    (a, doubles_a), (b, doubles_b) = without_duplicates(a), without_duplicates(b)
    copies = [*doubles_a, *doubles_b, *_shared(a, b)]
    a, b, ends = align_ends(a, b)
    a, b = mark_blow_ups(a), mark_blow_ups(b)
    diverged = [
        f"{run.source} of {label} diverged: {run.ending}"
        for label, side in zip(SIDES, (a, b), strict=True)
        for run in side
        if run.diverged
    ]
    return a, b, [*copies, *ends, *diverged]


def find_repeats(side: Runs) -> dict[int, int]:
    """Index of each run that repeats another one of its side -> index of the first with its losses.

    A single number of few decimals is often equal by chance, so there only a side whose runs are
    all equal has copies.
    """
    seeds = [run.seed for run in side]
    losses = [_losses(run) for run in side]
    if len(side) > 1 and losses[0] is not None and len(set(losses)) == 1:
        return find_copies(losses, seeds)
    numbers = [loss if _identifies(run) else None for run, loss in zip(side, losses, strict=True)]
    return find_copies(numbers, seeds)


def _losses(run: LoggedRun) -> Hashable:
    """All losses of a run: those of its evaluations, or the final ones."""
    if run.evaluations:
        return tuple((at.step, *_of(at.metrics)) for at in run.evaluations)
    return _of(run.metrics) or None


def _of(metrics: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple((name, metrics[name]) for name in LOSSES if name in metrics)


def _identifies(run: LoggedRun) -> bool:
    decimals = [len(repr(value).partition(".")[2]) for _, value in _of(run.metrics)]
    return (
        len(run.evaluations) >= IDENTIFYING_EVALUATIONS
        or max(decimals, default=0) >= IDENTIFYING_DECIMALS
    )


def quality_values(name: str, sides: Sequence[Runs]) -> list[list[float]]:
    """The values of both sides that count as replicates of a metric; a speed keeps all."""
    if name not in QUALITY or is_rerun(*sides):
        return [[run.metrics[name] for run in side] for side in sides]
    return [_one_a_seed(name, side) for side in sides]


def needs_seeds(name: str, sides: tuple[Runs, Runs], values: Sequence[Sequence[float]]) -> bool:
    """Whether more runs like these would not narrow the interval of a metric."""
    if name not in QUALITY or is_rerun(*sides):
        return False
    fixed = all(_seed(run) == "fixed" for side in sides for run in side)
    return fixed or sum(map(len, values)) < sum(map(len, sides))


def _one_a_seed(name: str, side: Runs) -> list[float]:
    repeats = find_repeats(side)
    groups: dict[Hashable, list[float]] = {}
    for index, run in enumerate(side):
        first = repeats.get(index, index)
        key = _seed(side[first])
        groups.setdefault(("run", first) if key is None else key, []).append(run.metrics[name])
    return [sum(values) / len(values) for values in groups.values()]


def _seed(run: LoggedRun) -> Hashable:
    """What fixes the random stream of a run; None where it is not known to be fixed."""
    return "fixed" if run.varied == "nondeterminism" else run.seed


def without_duplicates(side: Runs) -> tuple[list[LoggedRun], list[str]]:
    """The runs without second copies of one log, of equal content or losses and times; findings."""
    seen: dict[Hashable, LoggedRun] = {}
    kept, findings = [], []
    for run in side:
        keys = _duplicate_keys(run)
        if known := next((seen[key] for key in keys if key in seen), None):
            findings.append(f"{run.source} has the numbers of {known.source}: a copy, left out")
            continue
        seen |= dict.fromkeys(keys, run)
        kept.append(run)
    return kept, findings


def _duplicate_keys(run: LoggedRun) -> list[Hashable]:
    """What only copies of one log share; nothing where equal numbers may be chance."""
    keys: list[Hashable] = [run.content_id] if run.content_id else []
    if any(name in SPEEDS for name in run.metrics):
        keys.append((tuple(sorted(run.metrics.items())), _losses(run), run.seed))
    return keys


def _shared(a: Runs, b: Runs) -> list[str]:
    """Logs of B that are copies of logs of A, a sentence each."""
    known = {run.content_id: run.source for run in a if run.content_id}
    return [
        f"{run.source} of B is a copy of {known[run.content_id]} of A: a run against itself"
        for run in b
        if run.content_id in known
    ]


def replicate_findings(a: Runs, b: Runs) -> list[str]:
    """Copies and reruns on either side, and runs that both sides share, a sentence each."""
    if is_rerun(a, b):
        return []
    findings = []
    for label, side in zip(SIDES, (a, b), strict=True):
        findings += _copies_of_side(label, side) or _reruns_of_side(label, side)
    return findings


def _copies_of_side(label: str, side: Runs) -> list[str]:
    repeats = find_repeats(side)
    groups: dict[int, list[str]] = {}
    for index, first in repeats.items():
        groups.setdefault(first, [_name(side[first])]).append(_name(side[index]))
    return [
        f"{len(names)} runs of {label} have equal losses ({_several(names)}): the trainer fixes or "
        "ignores its seed, and copies count as one run"
        for names in groups.values()
    ]


def _reruns_of_side(label: str, side: Runs) -> list[str]:
    seeds = [_seed(run) for run in side]
    reruns = [seed for seed in dict.fromkeys(seeds) if seed is not None and seeds.count(seed) > 1]
    return [
        f"{seeds.count(seed)} runs of {label} share {_seed_name(seed)} and count as one in "
        "quality: only other seeds show how much any change moves the loss"
        for seed in reruns
    ]


def _seed_name(seed: Hashable) -> str:
    return "a fixed seed" if seed == "fixed" else f"seed {seed}"


def _name(run: LoggedRun) -> str:
    return run.source if run.seed is None else f"seed {run.seed}"


def _several(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
