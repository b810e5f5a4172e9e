"""CORE of two sides of runs, compared example by example.

The scores of runs are compared like any metric, with the noise between runs. This file compares the
same two sides a second time, on the answers to each example that are kept with their records. A
side that kept no answers is reported, never guessed.
"""

from collections.abc import Sequence

import msgspec

from harness.comparison.comparability import SIDES, Runs
from harness.comparison.compare import compare
from harness.comparison.core import PairedCore, paired, scores
from harness.comparison.noise_model import NoiseModel
from harness.comparison.options import CompareOptions
from harness.comparison.result import Comparison, MetricResult
from harness.metrics import CORE_SCORES
from harness.results import core_answers
from harness.results.core_answers import CoreAnswers
from harness.results.logs.from_store import core_path_of_store, logged_run
from harness.results.logs.run_log import LogError, LoggedRun
from harness.results.record import Record, attempt_name
from harness.results.store import Store
from harness.stats.inference import Contrast

SAME_SCORE = 1e-5  # soft values are kept in single precision: a mean of them is good to 1e-7


def with_core(comparison: Comparison, a: Runs, b: Runs, *, wanted: bool = False) -> Comparison:
    """The comparison with CORE by example, where both sides kept their outcomes.

    `wanted`: the user requested it, so that its absence is an error. Raises LogError, StoreError.
    """
    whole = [[run for run in side if run.ending is None] for side in (a, b)]
    sides = [[run for run in side if run.answers is not None] for side in whole]
    scored = [one for one in comparison.metrics if one.metric in CORE_SCORES]
    if wanted and not all(sides):
        raise _not_kept(sides)
    if not wanted and not (scored and any(sides)):
        return comparison
    if not all(sides):
        note = f"{_lacking(sides)} kept no answers to CORE: no comparison example by example"
        return msgspec.structs.replace(comparison, notes=[*comparison.notes, note])
    notes = [
        f"{len(kept)} of {len(side)} runs of {name} kept their answers to CORE"
        for name, kept, side in zip(SIDES, sides, whole, strict=True)
        if len(kept) < len(side)
    ]
    over_runs = {
        one.metric: contrast
        for one in scored
        if one.n == (len(sides[0]), len(sides[1])) and (contrast := between_runs(one)) is not None
    }
    read = [[_read(run) for run in side] for side in sides]
    core = paired(read[0], read[1], comparison.alpha, over_runs)
    return msgspec.structs.replace(comparison, core=core, notes=[*comparison.notes, *notes])


def of_records(
    store: Store, a: Sequence[Record], b: Sequence[Record], alpha: float, noise_model: NoiseModel
) -> PairedCore | None:
    """Two sides of records whose outcomes this store may have; None where a side has none.

    Raises LogError, StoreError.
    """
    sides = [
        [logged_run(one, 1, attempt_name(one), core_path_of_store(store.root, one)) for one in side]
        for side in (a, b)
    ]
    names = [
        name for name in CORE_SCORES if all(name in run.metrics for side in sides for run in side)
    ]
    if not names:
        return None
    options = CompareOptions(alpha=alpha, metrics=names)
    return with_core(compare(sides[0], sides[1], options, noise_model), sides[0], sides[1]).core


def _read(run: LoggedRun) -> CoreAnswers:
    """The answers of a run, which must give the scores of its record. Raises LogError."""
    assert run.answers is not None, run.source
    found = core_answers.read(run.answers)
    again = scores([found])
    for name in CORE_SCORES:
        recorded, own = run.metrics.get(name), getattr(again, name)
        if recorded is not None and abs(recorded - own) > SAME_SCORE:
            raise LogError(
                str(run.answers),
                f"answers that give the {name} of their record, {recorded:.6f}",
                f"{own:.6f}",
                "They belong to another run, or were scored by another rule: move them away.",
            )
    return found


def between_runs(result: MetricResult) -> Contrast | None:
    """The difference with its error between runs; None without one."""
    if result.estimate is None or result.se is None or not result.df:
        return None
    return Contrast(estimate=result.estimate, se=result.se, df=result.df)


def _lacking(sides: Sequence[Runs]) -> str:
    names = [name for name, kept in zip(SIDES, sides, strict=True) if not kept]
    return "side " + " and side ".join(names)


def _not_kept(sides: Sequence[Runs]) -> LogError:
    return LogError(
        _lacking(sides),
        "the answers to every example of CORE, as records of this version keep them",
        "none",
        "Evaluate CORE in those runs and name their records, stores or run directories.",
    )
