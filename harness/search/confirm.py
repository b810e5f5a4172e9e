"""Confirmation on held-out seeds: the candidates against the base on seeds the search never used.

It is an ordinary study whose arms are the candidates: the same blocks, records, corrections and
report. Speed is compared within blocks, time to target by the study's own horizons. A candidate is
confirmed if all its runs complete and it is better than the base in one objective, outside an
interval corrected for all candidates, and worse in none. With `confirm.next` the confirmed
candidates go through a second study at another scale, with the same rule.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import errors
from harness.comparison.result import MetricResult
from harness.config.search_file import LN_TIME, SearchFile
from harness.config.study_file import ArmFile, ArmsFile, Decide, StudyFile
from harness.files import digest
from harness.format import plural
from harness.results.store import Store
from harness.search.candidates import Candidate
from harness.search.plan import SearchPlan
from harness.study.attribution import attribute
from harness.study.budget_limits import StopStudy
from harness.study.effects import ArmResult, Attribution
from harness.study.executor import Command, Executor, StudyListener, StudyOptions
from harness.study.resolve import resolve as resolve_study

CONFIRM, NEXT = "confirm", "next"
_DIGITS = 4  # of the digest in a study's name


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """What was confirmed, stored as one value once its study is complete.

    `trials`: how many the search had. `studies`: name by scale (confirm, next). `next`: overrides
    of the next scale; empty if there is none.
    """

    candidates: list[Candidate]
    trials: int
    studies: dict[str, str]
    next: dict[str, Any] = {}


class ConfirmationResult(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate in one study: its effect on each objective. `reason`: why not confirmed."""

    study: str
    effects: dict[str, MetricResult]
    confirmed: bool
    reason: str


class Confirmer:
    """Runs the confirmation studies of one search; what is complete already is not run again."""

    def __init__(
        self,
        plan: SearchPlan,
        store: Store,
        options: StudyOptions,
        command: Command,
        listener: StudyListener,
    ) -> None:
        self.plan, self.file, self.store = plan, plan.file, store
        self.options, self.command, self.listener = options, command, listener

    def run(
        self,
        candidates: list[Candidate],
        trials: int,
        stored: Confirmation | None,
        save: Callable[[Confirmation], None],
        command_line: str,
    ) -> str | None:
        """Runs the studies; returns which runs have no outcome, None if all have one.

        `save` receives the confirmation after each study; `stored` is the one saved last. Raises
        StopStudy if it is stopped before a study is complete.
        """
        file, next_scale = self.file, self.file.confirm.next
        name = study_name(file, CONFIRM, trials, candidates)
        unfinished = [self._run_study(name, candidates, {}, command_line)]
        done = Confirmation(
            candidates=candidates, trials=trials, studies={CONFIRM: name}, next=next_scale
        )
        results = confirmation_results(self.store, name, candidates, file.objectives)
        confirmed = [one for one, r in zip(candidates, results, strict=True) if r.confirmed]
        if next_scale and confirmed:
            at_next = study_name(file, NEXT, trials, confirmed)
            both = msgspec.structs.replace(done, studies={**done.studies, NEXT: at_next})
            if stored != both:
                save(done)
            unfinished.append(self._run_study(at_next, confirmed, next_scale, command_line))
            done = both
        save(done)
        return " ".join(text for text in unfinished if text is not None) or None

    def _run_study(
        self, name: str, candidates: list[Candidate], scale: dict[str, Any], command_line: str
    ) -> str | None:
        """Runs one study to its end; returns which of its runs have no outcome."""
        path, trainer = self.plan.path, self.plan.trainer
        file = study_file(self.file, path, candidates, name, scale)
        study = resolve_study(
            file, path, self.store, trainer, command=command_line, now=time.time()
        )
        self.store.save_study(study)
        number = plural(len(candidates), "candidate")
        self.listener.message(f"Confirming {number} on held-out seeds: study {name}")
        outcome = Executor(
            study, self.store, trainer, self.options, self.listener, self.command
        ).execute()
        if outcome.exit_code == errors.PASS:
            return None
        if outcome.stopped_early or outcome.exit_code != errors.COULD_NOT_RUN:
            raise StopStudy(outcome.exit_code, outcome.reason)
        return outcome.reason


def study_name(file: SearchFile, at: str, trials: int, candidates: Sequence[Candidate]) -> str:
    """The name of a confirmation study; other candidates or another rule make another study."""
    rule = file.confirm
    parts: list[Any] = [[one.number, one.overrides] for one in candidates]
    parts += [rule.seeds, rule.alpha, rule.correction, rule.next if at == NEXT else {}]
    return f"{file.search}-{at}-{trials}-{digest(parts, _DIGITS)}"


def study_file(
    file: SearchFile,
    path: Path,
    candidates: Sequence[Candidate],
    name: str,
    scale: Mapping[str, Any],
) -> StudyFile:
    """A confirmation study. `scale`: overrides of base and candidates alike."""
    objectives = file.objectives
    return StudyFile(
        study=name,
        question=f"Which of the best trials of the search {file.search} is better than its base?",
        trainer=file.trainer,
        base=str((path.parent / file.base).resolve()),
        set={**file.set, **scale},
        pin=file.pin,
        arms=ArmsFile(explicit={one.arm: ArmFile(set=one.overrides) for one in candidates}),
        seeds=file.confirm.seeds,
        horizons="default" if LN_TIME in objectives else [],
        decide=Decide(
            alpha=file.confirm.alpha / len(objectives), correction=file.confirm.correction
        ),
        limits=msgspec.structs.replace(file.limits, total_minutes=None),
    )


def confirmation_results(
    store: Store, name: str, candidates: Sequence[Candidate], objectives: Sequence[str]
) -> list[ConfirmationResult]:
    """The result of each candidate in a stored study, in their order. Raises StoreError."""
    found = attribute(store.study(name), store.records())
    arms = {arm.name: arm for arm in found.arms}
    return [_result(found, arms.get(one.arm), objectives) for one in candidates]


def _result(
    found: Attribution, arm: ArmResult | None, objectives: Sequence[str]
) -> ConfirmationResult:
    effects = {name: _effect(arm, name) for name in objectives} if arm is not None else {}
    known = {name: effect for name, effect in effects.items() if effect is not None}
    confirmed, reason = decide(known, objectives)
    completed = arm.statuses.get("completed", 0) if arm is not None else 0
    if arm is not None and completed < arm.planned:
        confirmed, reason = False, f"{completed} of {arm.planned} runs completed"
    return ConfirmationResult(study=found.study, effects=known, confirmed=confirmed, reason=reason)


def _effect(arm: ArmResult, name: str) -> MetricResult | None:
    if name == LN_TIME:
        return arm.time_to_target.total if arm.time_to_target is not None else None
    return arm.effects.get(name)


def decide(effects: Mapping[str, MetricResult], objectives: Sequence[str]) -> tuple[bool, str]:
    """(whether a candidate is confirmed, why not): better in one objective and worse in none."""
    for name in objectives:
        effect = effects.get(name)
        if effect is None or effect.estimate is None or effect.low is None:
            missing = effect and (effect.missing or effect.no_interval)
            return False, f"{name}: {missing or 'not compared'}"
    better = [name for name in objectives if effects[name].improved]
    worse = [name for name in objectives if effects[name].worsened]
    if worse:
        return False, f"worse in {', '.join(worse)}"
    return bool(better), "" if better else "within the noise"
