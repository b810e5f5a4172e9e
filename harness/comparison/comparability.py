"""Whether runs may be compared: what two sides must share, and which caveats belong beside them.

Sides of another format, protocol or data are refused with the field that differs, because their
metrics do not measure the same thing; so are scores of CORE that were evaluated differently. Speeds
must come from one environment, as far as the logs identify it, because the same code differs by
more between hosts than most changes are worth.
"""

from collections.abc import Sequence

from harness.metrics import SPEEDS
from harness.results.logs.run_log import LogError, LoggedRun
from harness.results.recipe import VarianceSource

Runs = Sequence[LoggedRun]
SIDES = ("A", "B")


def check_comparable(a: Runs, b: Runs) -> None:
    """Raises LogError unless both sides measure the same thing."""
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


def source_of_variance(name: str, a: Runs, b: Runs) -> VarianceSource:
    """Which source of variance makes two runs of these sides differ."""
    if name in SPEEDS:
        return "launch"
    return "nondeterminism" if is_rerun(a, b) else "seed"


def is_rerun(a: Runs, b: Runs) -> bool:
    """Whether all runs are known to be of one code, configuration and seed.

    Two codes at one seed differ as two seeds do, because any change moves the random stream.
    """
    keys = {(run.seed, run.code_id, run.config_id) for run in (*a, *b)}
    return len(keys) == 1 and None not in keys.pop()


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


def remarks(a: Runs, b: Runs) -> list[str]:
    """Caveats on the runs that are compared, one sentence each."""
    notes = list(dict.fromkeys(warning for run in (*a, *b) for warning in run.warnings))
    lengths = [side[0].planned_steps for side in (a, b)]
    if lengths[0] and lengths[1] and lengths[0] != lengths[1]:
        notes.append(
            f"different lengths: {lengths[0]:,} steps against {lengths[1]:,}; "
            "each run is compared at its own end"
        )
    counts = [max(len(run.evaluations) for run in side) for side in (a, b)]
    if counts[0] != counts[1] and not any(run.steps for run in (*a, *b)):
        notes.append(
            f"different lengths: {counts[0]:,} evaluations against {counts[1]:,}; "
            "each run is compared at its last"
        )
    if is_rerun(a, b):
        notes.append("one code and one seed on both sides: only the numerics differ")
    return notes
