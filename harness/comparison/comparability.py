"""Whether runs may be compared: what two sides must share, and which caveats belong beside them.

Sides of another format, protocol or data are refused with the field that differs, because their
metrics do not measure the same thing; so are scores of CORE that were evaluated differently. Speeds
must come from one environment, as far as the logs identify it, because the same code differs by
more between hosts than most changes are worth.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from harness.metrics import SPEEDS
from harness.results.logs.run_log import LogError, LoggedRun
from harness.results.recipe import VarianceSource

Runs = Sequence[LoggedRun]
Environment = tuple[tuple[str, str], ...]
SIDES = ("A", "B")


def check_comparable(a: Runs, b: Runs) -> None:
    """Raises LogError unless each side is one configuration and both measure the same thing."""
    for name, side in zip(SIDES, (a, b), strict=True):
        _check_one_configuration(name, side)
    _check_same("format", [run.family for run in a], [run.family for run in b])
    for field in sorted({field for run in (*a, *b) for field in run.identity}):
        of = [[run.identity.get(field, "unknown") for run in side] for side in (a, b)]
        _check_same(field, of[0], of[1])


def check_same_core_settings(a: Runs, b: Runs) -> None:
    """Raises LogError where scores of CORE are of another bundle or of other settings.

    Runs without evaluation settings, such as logs, are accepted.
    """
    settings = [[run.evaluation for run in side if run.evaluation] for side in (a, b)]
    if not all(settings):
        return
    for field in settings[0][0]:
        one, other = ([run.get(field, "unknown") for run in side] for side in settings)
        hint = "Evaluate both alike, or leave CORE out: --metric val_bpb."
        _check_same(f"core.{field}", one, other, hint)


def _check_one_configuration(name: str, side: Runs) -> None:
    lengths = Counter(run.planned_steps for run in side)
    configs = {run.config_id for run in side}
    if len(lengths) == 1 and len(configs) == 1:
        return
    counts = ", ".join(f"{n} of {length or 0:,} steps" for length, n in lengths.items())
    raise LogError(
        f"side {name}",
        "replicates of one configuration",
        f"runs {counts}" if len(lengths) > 1 else f"{len(configs)} configurations",
        "Name runs of one configuration on each side.",
    )


def _check_same(
    field: str, a: Sequence[str], b: Sequence[str], hint: str = "Compare runs that share it."
) -> None:
    values = [sorted(set(side)) for side in (a, b)]
    if values[0] != values[1] or len(values[0]) > 1:
        raise LogError(
            field,
            "the same on both sides",
            " against ".join(" and ".join(value) for value in values),
            f"Their metrics do not measure the same thing. {hint}",
        )


def accept_planned_stops(side: Runs) -> list[LoggedRun]:
    """Runs of a side that all stop at the same step early are taken to stop there by design."""
    stops = {run.steps for run in side}
    early = [
        run for run in side if run.ending and not run.diverged and run.evaluated_at == run.steps
    ]
    if len(early) < len(side) or len(side) < 2 or len(stops) > 1:
        return list(side)
    note = f"every run stops at step {stops.pop():,} of {side[0].planned_steps or 0:,}"
    return [
        msgspec.structs.replace(run, ending=None, warnings=[*run.warnings, note]) for run in side
    ]


def source_of_variance(name: str, a: Runs, b: Runs) -> VarianceSource:
    """Which source of variance makes two runs of these sides differ."""
    if name in SPEEDS:
        return "launch"
    return "nondeterminism" if _one_seed(a, b) else a[0].varied


def _one_seed(a: Runs, b: Runs) -> bool:
    seeds = {run.seed for run in (*a, *b)}
    stated = len(seeds) == 1 and None not in seeds
    return stated or all(run.varied == "nondeterminism" for run in (*a, *b))


def pairs_of(a: Runs, b: Runs) -> list[tuple[int, int]]:
    """Indices of the runs of one seed, where both sides have the same seeds, each once.

    Both sides have the same data (`check_comparable`); runs of other lengths see them in another
    order.
    """
    seeds = [[run.seed for run in side] for side in (a, b)]
    lengths = {run.planned_steps for run in (*a, *b)}
    once = all(len(set(side)) == len(side) for side in seeds)
    if not once or set(seeds[0]) != set(seeds[1]) or None in seeds[0] or len(lengths) > 1:
        return []
    return [(index, seeds[1].index(seed)) for index, seed in enumerate(seeds[0])]


def environment_of(run: LoggedRun) -> Environment:
    """The environment of a run as one value."""
    return tuple(sorted(run.environment.items()))


def runs_of_one_environment(
    name: str, a: Runs, b: Runs
) -> tuple[tuple[Runs, Runs] | None, str | None, list[str]]:
    """The runs whose speeds may be compared (None: refused), why they decide nothing, and notes."""
    measured = [[run for run in side if name in run.metrics] for side in (a, b)]
    keys = [{environment_of(run) for run in side} for side in measured]
    shared = keys[0] & keys[1]
    if not shared:
        return None, "refused: " + _differing(measured[0], measured[1]), []
    kept = [[run for run in side if environment_of(run) in shared] for side in measured]
    notes = []
    if sum(map(len, kept)) < sum(map(len, measured)):
        notes.append("only runs of environments that both sides have are compared")
    if not all(run.environment_known for side in kept for run in side):
        reason = "unknown environment: the logs do not identify the machine"
        return (kept[0], kept[1]), reason, notes
    if (order := _order(kept[0], kept[1])) is not None:
        notes.append(order)
    return (kept[0], kept[1]), None, notes


def _differing(a: Runs, b: Runs) -> str:
    """The fields in which no run of A equals a run of B, with their values."""
    fields = sorted({field for run in (*a, *b) for field in run.environment})
    parts = []
    for field in fields:
        values = [sorted({run.environment.get(field, "unknown") for run in s}) for s in (a, b)]
        if set(values[0]) & set(values[1]):
            continue
        short = [value[0] if len(value) == 1 else f"{len(value)} values" for value in values]
        long = any(len(text) > 40 for text in short)
        parts.append(f"{field} differ" if long else f"{field} {short[0]} against {short[1]}")
    return "; ".join(parts) or "no two runs share an environment"


def _order(a: Runs, b: Runs) -> str | None:
    """A note where all runs of one side came before the other's, as far as the logs have times."""
    times = [[run.started_at for run in side if run.started_at is not None] for side in (a, b)]
    if not all(times):
        return None
    if max(times[0]) < min(times[1]) or max(times[1]) < min(times[0]):
        first = "A" if max(times[0]) < min(times[1]) else "B"
        return f"not interleaved: all of {first} ran first, so the host may have drifted"
    return None


def remarks(a: Runs, b: Runs) -> list[str]:
    """Caveats on the runs that are compared, one sentence each."""
    notes = list(dict.fromkeys(warning for run in (*a, *b) for warning in run.warnings))
    lengths = [side[0].planned_steps for side in (a, b)]
    if lengths[0] and lengths[1] and lengths[0] != lengths[1]:
        notes.append(f"different lengths: {lengths[0]:,} steps against {lengths[1]:,}")
    seen: dict[tuple[tuple[str, float], ...], str] = {}
    for run in (*a, *b):
        key = tuple(sorted(run.metrics.items()))
        timed = any(name in SPEEDS for name in run.metrics)
        if timed and key in seen:
            notes.append(f"{run.source} has the same numbers as {seen[key]}: a copy?")
        seen.setdefault(key, run.source)
    if _one_seed(a, b):
        notes.append("one seed on both sides: the result holds for that seed")
    return notes
