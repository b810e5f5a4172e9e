"""CORE of a study, task by task: the base's scores, and every arm against it on the same examples.

Reads the outcomes that the store keeps with the records, once; a study that did not evaluate CORE
costs nothing. An arm whose runs were evaluated in another way, or kept nothing, has the reason in
place of a table.
"""

from collections.abc import Sequence

import msgspec

from harness.compare.core import PairedCore, Scores, paired, scores
from harness.errors import StoreError
from harness.metrics import CORE_SCORES
from harness.results import core_answers
from harness.results.core_answers import CoreAnswers
from harness.results.store import CORE_FOLDER, Store
from harness.stats.inference import Contrast
from harness.study.effects import ArmResult, Attribution


class StudyCore(msgspec.Struct, frozen=True, kw_only=True):
    """`arms` in the order of the report; None for one that cannot be compared, see `missing`."""

    base: Scores
    arms: dict[str, PairedCore | None]
    missing: dict[str, str]


def core_of(store: Store, found: Attribution, ranked: Sequence[ArmResult]) -> StudyCore | None:
    """None where the base kept no outcomes. Raises StoreError for a damaged file."""
    if not any(name in found.base_values for name in CORE_SCORES):
        return None
    base = _kept(store, found, found.base)
    if not base:
        return None
    arms: dict[str, PairedCore | None] = {}
    missing: dict[str, str] = {}
    for arm in ranked:
        arms[arm.name] = None
        try:
            runs = _kept(store, found, arm.name)
            if runs:
                over_runs = _between_runs(arm, base, runs)
                arms[arm.name] = paired(base, runs, found.alpha / 2, over_runs)
            else:
                missing[arm.name] = "no run kept its answers to CORE"
        except StoreError as error:
            missing[arm.name] = f"{error.path}: {error.got}"
    return StudyCore(base=scores(base), arms=arms, missing=missing)


def _kept(store: Store, found: Attribution, arm: str) -> list[CoreAnswers]:
    """The outcomes of an arm's completed runs."""
    ids = [row.plan_id for row in found.runs if (row.arm, row.status) == (arm, "completed")]
    records = [record for plan_id in ids if (record := store.record(plan_id)) is not None]
    paths = [store.side_files(record).get(CORE_FOLDER) for record in records]
    return [core_answers.read(path) for path in paths if path is not None]


def _between_runs(
    arm: ArmResult, base: Sequence[CoreAnswers], runs: Sequence[CoreAnswers]
) -> dict[str, Contrast]:
    """The effects on CORE with their error between runs, where they are of these very runs."""
    found = {}
    for name in CORE_SCORES:
        effect = arm.effects.get(name)
        if effect is None or effect.estimate is None or effect.se is None or not effect.df:
            continue
        if (effect.n_base, effect.n_arm) == (len(base), len(runs)):
            found[name] = Contrast(estimate=effect.estimate, se=effect.se, df=effect.df)
    return found
