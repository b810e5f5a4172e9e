"""CORE of a study, task by task: the base's scores, and every arm against it on the same examples.

Reads the outcomes that the store keeps with the records, once; a study that did not evaluate CORE
costs nothing. An arm whose runs were evaluated in another way, or kept nothing, has the reason in
place of a table.
"""

from collections.abc import Sequence

import msgspec

from harness import outcomes
from harness.effects import Effect
from harness.errors import StoreError
from harness.outcomes import Outcomes
from harness.paired_core import METRICS, PairedCore, Scores, paired, scores
from harness.report.content import Content
from harness.statistics import Contrast
from harness.store import ANSWERS


class StudyCore(msgspec.Struct, frozen=True, kw_only=True):
    """`arms` in the order of the report; None for one that cannot be compared, see `missing`."""

    base: Scores
    arms: dict[str, PairedCore | None]
    missing: dict[str, str]


def core_of(content: Content) -> StudyCore | None:
    """None where the base kept no outcomes. Raises StoreError for a damaged file."""
    found = content.found
    if not any(name in found.base_values for name in METRICS):
        return None
    base = _kept(content, found.base)
    if not base:
        return None
    arms: dict[str, PairedCore | None] = {}
    missing: dict[str, str] = {}
    for arm in content.ranked:
        runs = _kept(content, arm.name)
        over_runs = {
            name: contrast
            for name in METRICS
            if (contrast := _between_runs(arm.effects.get(name), base, runs)) is not None
        }
        try:
            if not runs:
                missing[arm.name] = "no run kept its answers to CORE"
            arms[arm.name] = paired(base, runs, found.alpha / 2, over_runs) if runs else None
        except StoreError as error:
            arms[arm.name], missing[arm.name] = None, f"{error.path}: {error.got}"
    return StudyCore(base=scores(base), arms=arms, missing=missing)


def _kept(content: Content, arm: str) -> list[Outcomes]:
    """The outcomes of an arm's completed runs."""
    ids = [row.plan_id for row in content.found.runs if (row.arm, row.status) == (arm, "completed")]
    records = [record for plan_id in ids if (record := content.store.record(plan_id)) is not None]
    paths = [content.store.beside(record).get(ANSWERS) for record in records]
    return [outcomes.read(path) for path in paths if path is not None]


def _between_runs(
    effect: Effect | None, base: Sequence[Outcomes], runs: Sequence[Outcomes]
) -> Contrast | None:
    """An effect with its error between runs, where it is of these very runs."""
    if effect is None or effect.estimate is None or effect.se is None or not effect.df:
        return None
    if (effect.n_base, effect.n_arm) != (len(base), len(runs)):
        return None
    return Contrast(estimate=effect.estimate, se=effect.se, df=effect.df)
