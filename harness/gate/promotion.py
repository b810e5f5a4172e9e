"""Baseline promotion: records a first baseline, or replaces one with fresh replicates and the
comparison that justifies it.

Replicates come from the arm of a stored study or are made here. Nothing is printed: the functions
return what was stored, and progress goes to a callable.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import errors
from harness.comparison.engine import has_limits
from harness.comparison.noise_model import NoiseModel
from harness.config.yaml_schema import EXAMPLES
from harness.errors import TrainerError, UsageError
from harness.gate import baseline, history
from harness.gate.baseline import Baseline, PromotionEvidence, ReplicateSet
from harness.gate.metrics import compare_quality
from harness.gate.result import EXIT_CODES, GateMetric, LookSchedule, worst
from harness.results import readings
from harness.results.logs import from_store
from harness.results.record import Record, attempt_name
from harness.results.store import Store
from harness.runner import replicates, worktree
from harness.runner.process import Stop
from harness.runner.trainer import NativeTrainer
from harness.stats.spending import Reading

ALPHA = 0.01  # stricter than in a gate: every later gate is compared with this baseline
RUN_TIMEOUT_S = 3600.0
MEMBER = ":"  # between a store and STUDY/ARM


class PromotionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a promotion stored; `stored` and `path` are None where it was refused, with `reason`."""

    stored: Baseline | None
    path: Path | None
    evidence: PromotionEvidence | None = None
    reason: str | None = None

    @property
    def exit_code(self) -> int:
        """That of the comparison where it was refused."""
        if self.stored is not None or self.evidence is None:
            return errors.PASS
        regression = self.evidence.outcome == "regression"
        return EXIT_CODES["regression" if regression else "inconclusive"]


def replicates_of_arm(source: str) -> ReplicateSet:
    """The runs of `STORE:STUDY/ARM`. Raises UsageError."""
    root, colon, study = source.rpartition(MEMBER)
    if not colon or not from_store.is_store(Path(root)):
        raise UsageError(
            f"--from {source}",
            "an arm of a stored study, as STORE:STUDY/ARM",
            f"no store at {root or source!r}",
            "For example runs:smoke/base; without an arm, `base` is used.",
        )
    store = Store(Path(root))
    records = from_store.study_arm_records(Path(root), study, store.records())
    name, _, arm_name = study.partition("/")
    plan = store.study(name)
    arm = plan.arm(arm_name or "base")
    checkout = Path(arm.checkout)
    commit = worktree.clean_commit(checkout) if checkout.is_dir() else None
    return ReplicateSet(records=records, trainer=plan.trainer, config=arm.config, commit=commit)


def make_replicates(
    store: Store,
    trainer: NativeTrainer,
    config: Path,
    sets: Mapping[str, Any],
    seeds: Sequence[int],
    report: Callable[[str], None] = lambda _: None,
    check_first: Callable[[Record], None] = lambda _: None,
) -> ReplicateSet:
    """Runs a configuration file at these seeds; recorded runs are not repeated.

    `check_first` may refuse the first run, before the others are made. Raises UsageError, and
    TrainerError where a run does not complete.
    """
    if not config.is_file():
        raise UsageError(str(config), "a configuration file", "no such file", EXAMPLES)
    recipe = replicates.describe_recipe(trainer, str(config), str(config.resolve()), sets)
    records: list[Record] = []
    stop = Stop()
    for seed in seeds:
        record = replicates.run_or_reuse(
            store, trainer, recipe.job(seed), stop, timeout_s=RUN_TIMEOUT_S
        )
        if record.status != "completed":
            raise TrainerError(
                f"seed {seed}",
                "a completed run",
                f"{record.status}: {record.reason}",
                record.hint or "See its log.txt in the store.",
            )
        report(f"seed {seed}: {record.wall_s:.0f} s")
        if not records:
            check_first(record)
        records.append(record)
    return ReplicateSet(
        records=records,
        trainer=trainer.name,
        config=recipe.config,
        commit=worktree.clean_commit(trainer.checkout),
    )


def record(
    root: Path, name: str, replicate_set: ReplicateSet, noise_model: NoiseModel, *, why: str
) -> PromotionResult:
    """Starts a baseline. Raises UsageError and BaselineError."""
    baseline.check_name(name)
    baseline.check_records(replicate_set.records, noise_model)
    stored, path = baseline.append(root, name, replicate_set, why=why or "the first of this name")
    return PromotionResult(stored=stored, path=path)


def accept(
    root: Path,
    name: str,
    replicate_set: ReplicateSet,
    store: Store,
    noise_model: NoiseModel,
    *,
    why: str,
    allow_regression: bool = False,
) -> PromotionResult:
    """Replaces the current entry of a baseline with fresh replicates where they are not worse.

    Raises BaselineError where they are not comparable or not fresh.
    """
    old, records = baseline.find(root, name), replicate_set.records
    baseline.check_records(records, noise_model)
    baseline.check_comparable(old, records[0].identity, own_settings=True)
    baseline.check_fresh(records, old, history.consumed_runs(history.load(store)))
    schedule, reading = LookSchedule(looks=[len(records)]), Reading(alpha=ALPHA)
    results = compare_quality(old.now.records, records, schedule, noise_model, reading, {})
    decided = [one.result.metric for one in results if has_limits(one.result)]
    if decided:
        candidate = records[0].identity
        question = readings.question_id([old.now.hash, candidate.config_id, candidate.code_id])
        names = [attempt_name(one) for one in records]
        seen = readings.add(store, question, names, decided)
        if seen:
            reading = Reading(alpha=ALPHA, seen=seen)
            results = compare_quality(old.now.records, records, schedule, noise_model, reading, {})
    outcome = worst([one.outcome for one in results if one.outcome is not None])
    evidence = PromotionEvidence(
        alpha=ALPHA, outcome=outcome, metrics=[one.result for one in results]
    )
    if reason := _refusal(outcome, results, allow_regression):
        return PromotionResult(stored=None, path=None, evidence=evidence, reason=reason)
    stored, path = baseline.append(
        root, old.name, replicate_set, why=why, evidence=evidence, after=old
    )
    return PromotionResult(stored=stored, path=path, evidence=evidence)


def _refusal(outcome: str, results: Sequence[GateMetric], allow_regression: bool) -> str | None:
    if outcome == "regression" and not allow_regression:
        return (
            "the replicates are worse than the baseline; "
            "to accept them nevertheless, add --allow-regression"
        )
    if outcome == "inconclusive":
        undecided = [one.result for one in results if one.outcome == "inconclusive"]
        more = [result.more_runs for result in undecided if result.more_runs]
        runs = "add runs"
        if more:
            runs = f"about {max(more)} more runs, accepted with these, would decide it"
        return f"the comparison is inconclusive; {runs}"
    return None
