"""CORE of a study, task by task: the base's scores, and every arm against it on the same examples.

Reads the answers that the store keeps beside the records, only where the study evaluated CORE. An
arm that was evaluated differently, or whose answers are missing, has a reason instead.
"""

from collections.abc import Sequence

import msgspec

from harness.comparison.core import PairedCore, Scores, paired, scores
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


def core_of(store: Store, result: Attribution, ranked: Sequence[ArmResult]) -> StudyCore | None:
    """None where the base has no answers. Raises StoreError for a damaged file."""
    if not any(name in result.base_values for name in CORE_SCORES):
        return None
    base = _answers(store, result, result.base)
    if not base:
        return None
    arms: dict[str, PairedCore | None] = {}
    missing: dict[str, str] = {}
    for arm in ranked:
        arms[arm.name] = None
        try:
            runs = _answers(store, result, arm.name)
            if runs:
                over_runs = _between_runs(arm, base, runs)
                arms[arm.name] = paired(base, runs, result.alpha / 2, over_runs)
            else:
                missing[arm.name] = "no run has its answers to CORE in the store"
        except StoreError as error:
            missing[arm.name] = f"{error.path}: {error.got}"
    return StudyCore(base=scores(base), arms=arms, missing=missing)


def _answers(store: Store, result: Attribution, arm: str) -> list[CoreAnswers]:
    """The answers of an arm's completed runs."""
    ids = [row.plan_id for row in result.runs if (row.arm, row.status) == (arm, "completed")]
    records = [record for plan_id in ids if (record := store.record(plan_id)) is not None]
    paths = [store.side_files(record).get(CORE_FOLDER) for record in records]
    return [core_answers.read(path) for path in paths if path is not None]


def _between_runs(
    arm: ArmResult, base: Sequence[CoreAnswers], runs: Sequence[CoreAnswers]
) -> dict[str, Contrast]:
    """The effects on CORE with their error between runs, where they are of the same runs."""
    contrasts = {}
    for name in CORE_SCORES:
        effect = arm.effects.get(name)
        if effect is None or effect.estimate is None or effect.se is None or not effect.df:
            continue
        if (effect.n_base, effect.n_arm) == (len(base), len(runs)):
            contrasts[name] = Contrast(estimate=effect.estimate, se=effect.se, df=effect.df)
    return contrasts
