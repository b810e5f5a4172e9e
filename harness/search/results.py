"""A search as data: its trials, its noise, what was confirmed; read from storage and store.

`report.json` holds exactly this; the terminal and the page print it. Reads, computes, never runs
anything.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from harness.config.search_file import SearchFile, dimensions
from harness.results.store import Store
from harness.search.base_noise import BaseNoise
from harness.search.confirm import (
    CONFIRM,
    NEXT,
    Confirmation,
    Look,
    Pick,
    feasible,
    kept,
    look,
    pick,
)
from harness.search.objective import harm
from harness.search.trial import told
from harness.stats import inference

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

BASE = "base"  # the Optuna study's attribute that holds the noise of the base
EDGE = 0.05  # of a range, on its own scale: so near to an end, the best may lie beyond


class TrialRow(msgspec.Struct, frozen=True, kw_only=True):
    """One trial. `outcome` is a record's status, or: refused, pruned, unmeasured, lost,
    at work, waiting (in line for a worker).
    """

    number: int
    outcome: str
    reason: str | None
    point: dict[str, Any]
    values: list[float] | None
    feasible: bool
    recorded: bool
    steps: int
    wall_s: float
    gpu_s: float
    started_at: float | None
    ended_at: float | None


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One of the best trials: what the search claims, and what each further look says of it.

    `at_edge`: the fields that it has at an end of their range. `lacks`: why it was not looked at at
    the next scale, where that is asked for.
    """

    pick: Pick
    at_edge: list[str] = []
    confirm: Look | None = None
    next: Look | None = None
    lacks: str | None = None

    @property
    def survives(self) -> bool:
        """Confirmed, and at the next scale too where that was asked."""
        return (
            self.confirm is not None
            and self.confirm.survives
            and self.lacks is None
            and (self.next is None or self.next.survives)
        )


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer of one search."""

    search: str
    question: str
    objectives: list[str]
    noise: BaseNoise
    detectable: dict[str, float]  # smallest effect the second look can see, per objective
    trials: list[TrialRow]
    claims: list[Claim]
    looks: dict[str, str]  # confirm, next -> name of the study
    elsewhere: list[str]  # studies of the second look that another store has
    later: int  # trials after the second look
    importances: dict[str, float]
    names: list[str]  # of all parameters
    logarithmic: list[str]  # of those with a logarithmic range
    alpha: float
    correction: str
    best: int
    gpu_s: float
    wall_s: float
    price_usd: float | None
    refused: list[str]

    @property
    def outcomes(self) -> Counter[str]:
        """How many trials ended how."""
        return Counter(row.outcome for row in self.trials)

    @property
    def survivors(self) -> list[Claim]:
        """What was confirmed."""
        return [claim for claim in self.claims if claim.survives]

    def eligible(self) -> list[TrialRow]:
        """Trials with a value that keep every bound."""
        return [row for row in self.trials if row.outcome == "completed" and row.feasible]

    def best_row(self) -> TrialRow | None:
        """The eligible trial that is best in the first objective."""
        sign = harm(self.objectives[0])
        rows = [row for row in self.eligible() if row.values]
        return min(rows, key=lambda row: sign * (row.values or [0.0])[0], default=None)


def read(
    study: "Study", store: Store, file: SearchFile, base_plan: str, refused: Sequence[str]
) -> SearchResult | None:
    """What a search says so far; None while its base has no replicates. Raises StoreError.

    A second look that another machine's store has is none here.
    """
    attributes = study.user_attrs
    if BASE not in attributes:
        return None
    noise = msgspec.convert(attributes[BASE], BaseNoise)
    trials = study.get_trials(deepcopy=False)
    second = kept(attributes)
    made = {} if second is None else second.studies
    looks = {look: name for look, name in made.items() if store.study_path(name).exists()}
    names = file.objectives
    if second is not None and CONFIRM in looks:
        claims = _looked_at(store, file, second, looks)
        rule = store.study(looks[CONFIRM]).decide
        alpha, correction = rule.alpha * len(names), rule.correction
    else:
        picks = pick(trials, names, noise, file.confirm.best, base_plan)
        claims = [Claim(pick=one, at_edge=at_edge(file, one)) for one in picks]
        alpha, correction = file.confirm.alpha, file.confirm.correction
    rows = [_row(trial) for trial in trials]
    gpu_s = sum(row.gpu_s for row in rows)
    price = file.limits.price
    return SearchResult(
        search=file.search,
        question=file.question,
        objectives=names,
        noise=noise,
        detectable={name: detectable(file, noise, claims, name) for name in names},
        trials=rows,
        claims=claims,
        looks=looks,
        elsewhere=[name for name in made.values() if name not in looks.values()],
        later=len(trials) - second.trials if second is not None and looks else 0,
        importances=importances(study, trials),
        names=file.parameters,
        logarithmic=[path for _, path, one in dimensions(file) if one.log],
        alpha=alpha,
        correction=correction,
        best=file.confirm.best,
        gpu_s=gpu_s,
        wall_s=sum(row.wall_s for row in rows),
        price_usd=None if price is None else gpu_s / 3600 * price,
        refused=list(refused),
    )


def _row(trial: "FrozenTrial") -> TrialRow:
    lost = trial.state.name == "FAIL"
    answer = None if lost else told(trial)
    open_as = {"RUNNING": "at work", "WAITING": "waiting"}
    started, ended = trial.datetime_start, trial.datetime_complete
    return TrialRow(
        number=trial.number,
        outcome=answer.outcome if answer else open_as.get(trial.state.name, "lost"),
        reason=answer.reason if answer else None,
        point=trial.params,
        values=trial.values if answer is not None and answer.outcome == "completed" else None,
        feasible=feasible(trial),
        recorded=answer is not None and answer.recorded,
        steps=answer.steps if answer else 0,
        wall_s=answer.wall_s if answer else 0.0,
        gpu_s=answer.gpu_s if answer else 0.0,
        started_at=started.timestamp() if started else None,
        ended_at=ended.timestamp() if ended else None,
    )


def _looked_at(
    store: Store, file: SearchFile, second: Confirmation, looks: dict[str, str]
) -> list[Claim]:
    """The candidates of a second look that this store has, with what each look says of them."""
    names = file.objectives
    confirmed = look(store, looks[CONFIRM], second.picks, names)
    survivors = [p for p, seen in zip(second.picks, confirmed, strict=True) if seen.survives]
    further: dict[int, Look] = {}
    lacks = None
    if NEXT in looks:
        again = look(store, looks[NEXT], survivors, names)
        further = {p.number: seen for p, seen in zip(survivors, again, strict=True)}
    elif second.next:
        lacks = "next scale " + ("in another store" if NEXT in second.studies else "not made yet")
    return [
        Claim(
            pick=p,
            at_edge=at_edge(file, p),
            confirm=seen,
            next=further.get(p.number),
            lacks=lacks if seen.survives else None,
        )
        for p, seen in zip(second.picks, confirmed, strict=True)
    ]


def at_edge(file: SearchFile, pick: Pick) -> list[str]:
    """The fields of a trial within EDGE of an end of their range; choices have none."""
    found = []
    for _, path, dimension in dimensions(file):
        ends = dimension.floats or dimension.ints
        if ends is None or path not in pick.overrides:
            continue
        on = math.log if dimension.log else float
        last = ends[1]
        if step := dimension.step:  # the last point that can be reached
            last = ends[0] + math.floor((ends[1] - ends[0]) / step + 1e-9) * step
        low, value, high = (on(number) for number in (ends[0], pick.overrides[path], last))
        if not EDGE < (value - low) / (high - low) < 1 - EDGE:
            found.append(path)
    return found


def detectable(file: SearchFile, noise: BaseNoise, claims: Sequence[Claim], name: str) -> float:
    """The smallest effect that the second look could see; before it, by the base's SD alone."""
    seen = [
        claim.confirm.effects[name].minimum_detectable
        for claim in claims
        if claim.confirm is not None and name in claim.confirm.effects
    ]
    if known := [value for value in seen if value is not None]:
        return max(known)
    return planned_detectable(file, noise.sd[name], noise.df)


def planned_detectable(file: SearchFile, sd: float, df: int) -> float:
    """The smallest effect that the second look will see, in the unit of `sd`."""
    runs, arms = len(file.confirm.seeds), max(1, file.confirm.best)
    return inference.minimum_detectable_effect(
        sd,
        max(df, (arms + 1) * (runs - 1)),
        runs,
        runs,
        file.confirm.alpha / len(file.objectives),
        arms=arms,
        correction=file.confirm.correction,
    )


def importances(study: "Study", trials: "Sequence[FrozenTrial]") -> dict[str, float]:
    """The share of each parameter in what sets the good trials apart (Optuna's PED-ANOVA).

    Empty where fewer than two parameters or four trials say anything.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    done = [trial for trial in trials if trial.values is not None and told(trial) is not None]
    done = [trial for trial in done if trial.state.name == "COMPLETE"]
    varied = {
        name
        for name in {name for trial in done for name in trial.params}
        if len({trial.params.get(name) for trial in done}) > 1
    }
    if len(done) < 4 or len(varied) < 2 or len({trial.values[0] for trial in done}) < 2:
        return {}
    sign = 1.0 if study.directions[0].name == "MINIMIZE" else -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that a low target counts as good
        return get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(),
            target=lambda trial: sign * trial.values[0],
        )
