"""The outcomes of CORE behind two sides of runs: found, read, compared example by example.

The scores of runs are judged like any metric, with the noise between runs. Here the same two sides
are compared a second time, on the answers that were kept with their records: the one place that
reads them for a comparison or a gate. What a side has not kept is said and not guessed. After
`judgement`, before the commands and the gate.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness import outcomes
from harness.dunnett import t_quantile
from harness.fairness import SIDES, Runs
from harness.judgement import Asked, Comparison, Judgement, compare
from harness.ledger import Ledger
from harness.logs.logged import LogError
from harness.logs.recorded import answers_of_store, logged
from harness.paired_core import METRICS, PairedCore, paired
from harness.record import Record
from harness.replicates import name_of
from harness.statistics import Contrast
from harness.store import Store


def with_core(found: Comparison, a: Runs, b: Runs, *, wanted: bool = False) -> Comparison:
    """The comparison with CORE by example, where both sides kept their outcomes.

    `wanted`: somebody asked for it, so that its absence is an error. Raises LogError, StoreError.
    """
    sides = [[run for run in side if run.ending is None] for side in (a, b)]
    paths = [[run.answers for run in side if run.answers is not None] for side in sides]
    scored = [judged for judged in found.judgements if judged.metric in METRICS]
    if wanted and not all(paths):
        raise _not_kept(paths)
    if not wanted and not (scored and any(paths)):
        return found
    if not all(paths):
        note = f"{_lacking(paths)} kept no answers to CORE: no comparison example by example"
        return msgspec.structs.replace(found, notes=[*found.notes, note])
    notes = [
        f"{len(kept)} of {len(side)} runs of {name} kept their answers to CORE"
        for name, kept, side in zip(SIDES, paths, sides, strict=True)
        if len(kept) < len(side)
    ]
    core = of_files(paths[0], paths[1], scored, found.alpha)
    return msgspec.structs.replace(found, core=core, notes=[*found.notes, *notes])


def of_records(
    store: Store, a: Sequence[Record], b: Sequence[Record], alpha: float, ledger: Ledger
) -> PairedCore | None:
    """Two sides of records whose outcomes this store may have; None where a side has none.

    Raises LogError, StoreError.
    """
    sides = [
        [logged(one, 1, name_of(one), answers_of_store(store.root, one)) for one in side]
        for side in (a, b)
    ]
    names = [name for name in METRICS if all(name in run.metrics for side in sides for run in side)]
    if not names:
        return None
    asked = Asked(alpha=alpha, metrics=names)
    return with_core(compare(sides[0], sides[1], asked, ledger), sides[0], sides[1]).core


def of_files(
    a: Sequence[Path], b: Sequence[Path], judgements: Sequence[Judgement], alpha: float
) -> PairedCore:
    """Two sides of outcomes; `judgements` give the noise between runs. Raises StoreError."""
    sides = [[outcomes.read(path) for path in side] for side in (a, b)]
    over_runs = {
        judged.metric: contrast
        for judged in judgements
        if judged.n == (len(a), len(b)) and (contrast := between_runs(judged, alpha)) is not None
    }
    return paired(sides[0], sides[1], alpha, over_runs)


def between_runs(judged: Judgement, alpha: float) -> Contrast | None:
    """The difference of a judgement whose limits are at `alpha`, with its error."""
    if judged.estimate is None or judged.low is None or judged.high is None or not judged.df:
        return None
    se = (judged.high - judged.low) / (2 * t_quantile(1 - alpha, judged.df))
    return Contrast(estimate=judged.estimate, se=se, df=judged.df)


def _lacking(paths: Sequence[Sequence[Path]]) -> str:
    names = [name for name, kept in zip(SIDES, paths, strict=True) if not kept]
    return "side " + " and side ".join(names)


def _not_kept(paths: Sequence[Sequence[Path]]) -> LogError:
    return LogError(
        path=_lacking(paths),
        expected="the answers to every example of CORE, as records of this version keep them",
        got="none",
        remedy="Evaluate CORE in those runs and name their records, stores or run directories.",
    )
