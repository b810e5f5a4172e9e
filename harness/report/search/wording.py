"""Numbers, settings and sentences of a search, as its reports and its progress show them."""

from collections.abc import Sequence
from typing import Any

from harness.config.search_file import SearchFile
from harness.format import duration, plural
from harness.search.base import BaseNoise
from harness.search.objective import Objective
from harness.search.results import CandidateResult, SearchResult
from harness.search.trial import TrialResult


def amount(value: float) -> str:
    """Five decimals, or none for large values."""
    return f"{value:.5f}" if abs(value) < 100 else f"{value:,.0f}"


def setting(value: Any) -> str:
    """A value of a parameter."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def point(values: dict[str, Any]) -> str:
    """A point of the space, with shortened parameter names."""
    shown = short_names(list(values))
    return ", ".join(f"{shown[name]}={setting(value)}" for name, value in values.items())


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each path's shortest unique ending: `lr`, or `muon.lr` if another path ends in `lr`."""
    short = {}
    for name in names:
        parts = name.split(".")
        tails = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [f".{other}" for other in names if other != name]
        short[name] = next(
            (t for t in tails if not any(other.endswith(f".{t}") for other in others)), name
        )
    return short


def candidate_settings(one: CandidateResult) -> str:
    """The settings of a candidate, and those at an end of their range."""
    shown = short_names(list(one.candidate.overrides))
    text = point(one.candidate.overrides)
    if one.at_range_end:
        names = " and ".join(shown[path] for path in one.at_range_end)
        text += f" ({names} at the end of the range: the optimum may lie beyond it)"
    return text


def budget(file: SearchFile) -> str:
    """The budget: '40 trials, 5.00 USD'."""
    limits = file.budget
    parts = [
        plural(limits.trials, "trial") if limits.trials is not None else "",
        f"{limits.gpu_seconds:,.0f} GPU-seconds" if limits.gpu_seconds is not None else "",
        f"{limits.usd:,.2f} USD" if limits.usd is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def base_lines(noise: BaseNoise) -> list[str]:
    """The base's value of each objective, with its SD."""
    return [
        f"base: {name} {amount(noise.mean[name])}, SD {amount(noise.sd[name])} "
        f"over {len(noise.seeds)} seeds"
        for name in noise.mean
    ]


def no_pruning(objective: Objective, noise: BaseNoise) -> str | None:
    """Why no trial will be pruned; None if trials may be."""
    if len(objective.names) > 1:
        return "No trial is pruned: Optuna prunes by a single objective."
    if objective.watched is None:
        return f"No trial is pruned: evaluations during a run do not show {objective.names[0]}."
    if noise.evaluations < 2:
        return "No trial is pruned: a run of the base has fewer than two evaluations in its curve."
    return None


def trial_line(at: int, result: TrialResult, values: list[float] | None) -> str:
    """A trial that has ended, in one line."""
    if values is not None:
        text = ", ".join(amount(value) for value in values)
    else:
        text = result.outcome.replace("_", " ")
        text += f" at step {result.steps}" if result.steps else ""
    took = "recorded already" if result.reused else duration(result.wall_s)
    reason = f": {result.reason}" if values is None and result.outcome != "pruned" else ""
    return f"trial {at}: {text}, {took}; {point(result.overrides)}{reason}"


def outcome_counts(result: SearchResult) -> str:
    """'6 trials (5 completed, 1 pruned)'."""
    counts = ", ".join(f"{n} {name}".replace("_", " ") for name, n in result.outcomes.items())
    return plural(len(result.trials), "trial") + (f" ({counts})" if counts else "")


def candidate_outcome(one: CandidateResult) -> str:
    """Whether a candidate is confirmed, and why not."""
    if one.confirmation is None:
        return "not confirmed yet"
    if not one.confirmation.confirmed:
        return f"not confirmed: {one.confirmation.reason}"
    if one.next_missing is not None:
        return f"confirmed; {one.next_missing}"
    if one.next is not None and not one.next.confirmed:
        return f"confirmed, but not at the next scale: {one.next.reason}"
    return "confirmed"


def answer(result: SearchResult) -> str:
    """The sentence that answers the search."""
    if not result.studies:
        return _unconfirmed(result)
    if pending := [one for one in result.candidates if one.next_missing is not None]:
        return f"Confirmed on held-out seeds, {pending[0].next_missing}: {_names(pending)}."
    if not result.confirmed:
        return "No candidate was confirmed on held-out seeds: keep the base."
    return f"Confirmed on held-out seeds: {_names(result.confirmed)}."


def _names(candidates: Sequence[CandidateResult]) -> str:
    return ", ".join(f"trial {one.candidate.number}" for one in candidates)


def _unconfirmed(result: SearchResult) -> str:
    """The answer of a search without a confirmation."""
    if result.missing_studies:
        names = ", ".join(result.missing_studies)
        return f"The confirmation is in another store ({names}): no candidate is confirmed here."
    if result.candidates:
        why = "not run yet" if result.best else "disabled (confirm.best is 0)"
        return f"{plural(len(result.candidates), 'candidate')}, confirmation {why}."
    if result.best == 0:
        best = result.best_row()
        named = f": trial {best.number} is the best so far" if best is not None else ""
        return f"Confirmation is disabled (confirm.best is 0){named}."
    completed = [row for row in result.trials if row.outcome == "completed"]
    beyond = len(completed) - len(result.eligible())
    if completed and beyond == len(completed):
        return f"No trial keeps every bound: {plural(beyond, 'completed trial')} exceed one."
    apart = f" ({plural(beyond, 'trial')} beyond a bound not counted)" if beyond else ""
    return f"No trial is better than the base's mean{apart}."


def warnings(result: SearchResult) -> list[str]:
    """What a reader has to know beside the numbers."""
    lines = [f"rejected by the trainer: {text}" for text in result.invalid]
    if result.trials_since:
        confirmed = plural(len(result.trials) - result.trials_since, "trial")
        lines.append(
            f"The confirmation is of the first {confirmed}; {result.trials_since} came later. "
            "Re-run the same command to confirm the best of all trials."
        )
    if "tokens_per_s" in result.objectives and result.noise.environments > 1:
        lines.append(
            f"The base ran in {result.noise.environments} environments, so the speeds of trials "
            "are not comparable; the confirmation compares speeds within blocks only."
        )
    return lines
