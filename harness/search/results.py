"""The result of a search as data: its trials, the noise of its base, its confirmed candidates.

Read from the storage and the store; runs nothing. `report.json` has the same fields.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from harness.config.search_file import SearchFile, dimensions
from harness.results.store import Store
from harness.results.study_plan import plan_id
from harness.search.base import BaseNoise
from harness.search.candidates import (
    Candidate,
    at_range_end,
    is_feasible,
    select_candidates,
)
from harness.search.confirm import (
    CONFIRM,
    NEXT,
    Confirmation,
    ConfirmationResult,
    confirmation_results,
)
from harness.search.objective import harm
from harness.search.state import SearchState
from harness.search.storage import SURPLUS
from harness.search.trial import result_of
from harness.stats import inference, moderation

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

UNFINISHED = {"RUNNING": "running", "WAITING": "waiting"}


class TrialRow(msgspec.Struct, frozen=True, kw_only=True):
    """One trial. `outcome` is a record's status, or: invalid, pruned, unmeasured, running,
    waiting (queued for a worker), lost (its worker died).
    """

    number: int
    outcome: str
    reason: str | None
    params: dict[str, Any]
    values: list[float] | None
    feasible: bool
    reused: bool
    steps: int
    wall_s: float
    gpu_s: float
    started_at: float | None
    ended_at: float | None


class CandidateResult(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate with its confirmation, at the search's scale and at the next.

    `at_range_end`: the fields that it has at an end of their range. `next_missing`: why it has no
    result at the next scale although the search file has one.
    """

    candidate: Candidate
    at_range_end: list[str] = []
    confirmation: ConfirmationResult | None = None
    next: ConfirmationResult | None = None
    next_missing: str | None = None

    @property
    def confirmed(self) -> bool:
        """Confirmed, also at the next scale if the search file has one."""
        return (
            self.confirmation is not None
            and self.confirmation.confirmed
            and self.next_missing is None
            and (self.next is None or self.next.confirmed)
        )


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one search.

    `minimum_detectable`: the smallest effect that the confirmation can detect, by objective.
    `studies`: name of the confirmation study by scale (confirm, next); `missing_studies` are in
    another store. `trials_since`: trials that ended after the confirmation. `log_parameters`: those
    with a logarithmic range.
    """

    search: str
    question: str
    objectives: list[str]
    noise: BaseNoise
    minimum_detectable: dict[str, float]
    trials: list[TrialRow]
    candidates: list[CandidateResult]
    studies: dict[str, str]
    missing_studies: list[str]
    trials_since: int
    importances: dict[str, float]
    parameters: list[str]
    log_parameters: list[str]
    alpha: float
    correction: str
    best: int
    gpu_s: float
    wall_s: float
    price: float | None
    cost_usd: float | None
    invalid: list[str]

    @property
    def outcomes(self) -> Counter[str]:
        """The number of trials by outcome."""
        return Counter(row.outcome for row in self.trials)

    @property
    def confirmed(self) -> list[CandidateResult]:
        """The candidates that were confirmed."""
        return [one for one in self.candidates if one.confirmed]

    def eligible(self) -> list[TrialRow]:
        """Completed trials that keep every bound."""
        return [row for row in self.trials if row.values and row.feasible]

    def best_row(self) -> TrialRow | None:
        """The eligible trial that is best in the first objective."""
        sign = harm(self.objectives[0])
        rows = [(sign * row.values[0], row.number, row) for row in self.eligible() if row.values]
        return min(rows)[2] if rows else None


def read(
    study: "Study", store: Store, file: SearchFile, invalid: Sequence[str]
) -> SearchResult | None:
    """The result so far; None until the base has run. Raises StoreError.

    Confirmation studies in the store of another machine count as missing.
    """
    state = SearchState(study)
    noise, confirmation = state.noise, state.confirmation
    if noise is None:
        return None
    trials = state.trials()
    made = {} if confirmation is None else confirmation.studies
    studies = {at: name for at, name in made.items() if store.study_path(name).exists()}
    if confirmation is not None and CONFIRM in studies:
        candidates = _confirmed_candidates(store, file, confirmation, studies)
        rule = store.study(studies[CONFIRM]).decide
        alpha, correction = rule.alpha * len(file.objectives), rule.correction
    else:
        base = plan_id(state.base_identity, file.seed)
        selected = select_candidates(trials, file.objectives, noise, file.confirm.best, base)
        candidates = [
            CandidateResult(candidate=one, at_range_end=at_range_end(file, one)) for one in selected
        ]
        alpha, correction = file.confirm.alpha, file.confirm.correction
    rows = [_row(trial) for trial in trials if SURPLUS not in trial.user_attrs]
    gpu_s, price = sum(row.gpu_s for row in rows), file.limits.price
    return SearchResult(
        search=file.search,
        question=file.question,
        objectives=file.objectives,
        noise=noise,
        minimum_detectable={
            name: minimum_detectable(file, noise, candidates, name) for name in file.objectives
        },
        trials=rows,
        candidates=candidates,
        studies=studies,
        missing_studies=[name for name in made.values() if name not in studies.values()],
        trials_since=len(trials) - confirmation.trials if confirmation and studies else 0,
        importances=importances(study, trials),
        parameters=file.parameters,
        log_parameters=[path for _, path, one in dimensions(file) if one.log],
        alpha=alpha,
        correction=correction,
        best=file.confirm.best,
        gpu_s=gpu_s,
        wall_s=sum(row.wall_s for row in rows),
        price=price,
        cost_usd=None if price is None else gpu_s / 3600 * price,
        invalid=list(invalid),
    )


def _row(trial: "FrozenTrial") -> TrialRow:
    result = None if trial.state.name == "FAIL" else result_of(trial)
    started, ended = trial.datetime_start, trial.datetime_complete
    return TrialRow(
        number=trial.number,
        outcome=result.outcome if result else UNFINISHED.get(trial.state.name, "lost"),
        reason=result.reason if result else None,
        params=trial.params,
        values=trial.values if result is not None and result.outcome == "completed" else None,
        feasible=is_feasible(trial),
        reused=result is not None and result.reused,
        steps=result.steps if result else 0,
        wall_s=result.wall_s if result else 0.0,
        gpu_s=result.gpu_s if result else 0.0,
        started_at=started.timestamp() if started else None,
        ended_at=ended.timestamp() if ended else None,
    )


def _confirmed_candidates(
    store: Store, file: SearchFile, confirmation: Confirmation, studies: dict[str, str]
) -> list[CandidateResult]:
    """The candidates of a confirmation with their results in the studies of this store."""
    candidates, names = confirmation.candidates, file.objectives
    results = confirmation_results(store, studies[CONFIRM], candidates, names)
    confirmed = [one for one, r in zip(candidates, results, strict=True) if r.confirmed]
    at_next: dict[int, ConfirmationResult] = {}
    missing = None
    if NEXT in studies:
        further = confirmation_results(store, studies[NEXT], confirmed, names)
        at_next = {one.number: r for one, r in zip(confirmed, further, strict=True)}
    elif confirmation.next:
        where = "in another store" if NEXT in confirmation.studies else "not run yet"
        missing = f"next scale {where}"
    return [
        CandidateResult(
            candidate=one,
            at_range_end=at_range_end(file, one),
            confirmation=result,
            next=at_next.get(one.number),
            next_missing=missing if result.confirmed else None,
        )
        for one, result in zip(candidates, results, strict=True)
    ]


def minimum_detectable(
    file: SearchFile, noise: BaseNoise, candidates: Sequence[CandidateResult], name: str
) -> float:
    """The smallest effect that the confirmation can detect; before it, from the base's SD alone."""
    measured = [
        one.confirmation.effects[name].minimum_detectable
        for one in candidates
        if one.confirmation is not None and name in one.confirmation.effects
    ]
    if known := [value for value in measured if value is not None]:
        return max(known)
    return planned_detectable(file, noise.sd[name])


def planned_detectable(file: SearchFile, sd: float) -> float:
    """The smallest effect that the confirmation will detect, in the unit of `sd`."""
    runs, arms = len(file.confirm.seeds), max(1, file.confirm.best)
    return inference.minimum_detectable_effect(
        sd,
        moderation.planned_df(arms, runs),
        runs,
        runs,
        moderation.PAIRING_SHARE * file.confirm.alpha / len(file.objectives),
        arms=arms,
        correction=file.confirm.correction,
    )


def importances(study: "Study", trials: "Sequence[FrozenTrial]") -> dict[str, float]:
    """How much each parameter separates good trials from the others (Optuna's PED-ANOVA): shares.

    Empty with fewer than four completed trials or two parameters that vary.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    done = [
        trial
        for trial in trials
        if trial.values is not None and trial.state.name == "COMPLETE" and result_of(trial)
    ]
    names = {name for trial in done for name in trial.params}
    varied = [n for n in names if len({trial.params.get(n) for trial in done}) > 1]
    if len(done) < 4 or len(varied) < 2 or len({trial.values[0] for trial in done}) < 2:
        return {}
    sign = 1.0 if study.directions[0].name == "MINIMIZE" else -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a low target counts as good: intended
        return get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(),
            target=lambda trial: sign * trial.values[0],
        )
