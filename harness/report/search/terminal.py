"""A search on the terminal: the plan, a line for each trial, what was found and confirmed.

Prints and decides nothing. Every difference has its sign as the objective has it: below zero is
better where less is better.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness import format
from harness.compare.result import MetricResult
from harness.config.search_file import SearchFile
from harness.report.study import phrases
from harness.report.study.progress import cost
from harness.results.record import Record
from harness.search.base_noise import BaseNoise
from harness.search.confirm import Look
from harness.search.objective import Objective, unit
from harness.search.plan import SearchPlan
from harness.search.results import Claim, SearchResult, planned_detectable
from harness.search.trial import TrialResult
from harness.stats import inference

if TYPE_CHECKING:
    from rich.console import Console

DASH = "-"
COLUMNS = ("trial", "objective", "search", "shrunken", "held-out seeds", "next scale", "verdict")


def say(console: "Console", text: str) -> None:
    """A line as it is, without markup or wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def number(value: float) -> str:
    """Five digits behind the point, or as many that matter where it is large."""
    return f"{value:.5f}" if abs(value) < 100 else f"{value:,.0f}"


def setting(value: Any) -> str:
    """A value as a reader writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def point(values: dict[str, Any]) -> str:
    """A point of the space; of each path as many of its last parts as tell it from the others."""
    shown = short_names(list(values))
    return ", ".join(f"{shown[name]}={setting(value)}" for name, value in values.items())


def settings(claim: Claim) -> str:
    """What one of the best trials set, and where the space may have been too small for it."""
    shown = short_names(list(claim.pick.overrides))
    text = point(claim.pick.overrides)
    if claim.at_edge:
        names = " and ".join(shown[path] for path in claim.at_edge)
        text += f" ({names} at the end of the range: the best may lie beyond it)"
    return text


def short_names(names: list[str]) -> dict[str, str]:
    """`optimizer.muon.lr` as `muon.lr` where another ends in `lr` too, else as `lr`."""
    found = {}
    for name in names:
        parts = name.split(".")
        tails = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [f".{other}" for other in names if other != name]
        found[name] = next(
            (t for t in tails if not any(other.endswith(f".{t}") for other in others)), name
        )
    return found


def print_plan(console: "Console", plan: SearchPlan, known: Sequence[Record]) -> None:
    """The space, the base in it, what was refused at its ends; time and power by known records."""
    file = plan.file
    say(console, f"{file.search}: {file.question or 'which settings are best?'}")
    start = plan.start
    for name in plan.space.switches:
        state = "on" if plan.base.tricks.get(name) else "off"
        say(console, f"  trick {name}: on or off, in the base {state}")
    for one in plan.space.dimensions:
        only = f", only with {one.trick} {'on' if one.when else 'off'}" if one.trick else ""
        inside = start.get(one.path) if start is not None else None
        base = f", in the base {setting(inside)}" if inside is not None else ""
        say(console, f"  {one.path}: {one.words()}{base}{only}")
    if start is None:
        say(console, "  The base lies outside of this space: it is no trial.")
    for text in plan.refused:
        say(console, f"  refused by the trainer: {text}")
    say(console, f"objective: {', '.join(file.objectives)}; budget: {budget_words(file)}")
    if file.confirm.best:
        runs = (file.confirm.best + 1) * len(file.confirm.seeds)
        say(console, f"second look: the best {file.confirm.best} and the base, {runs} runs")
    for line in _price_words(plan, known):
        say(console, line)


def _price_words(plan: SearchPlan, known: Sequence[Record]) -> list[str]:
    """What it will take at most and be able to see, from completed runs of the base."""
    runs = [r for r in known if r.identity == plan.base.identity and r.status == "completed"]
    if not runs:
        return ["time, cost and smallest detectable effect: unknown until the base has run"]
    file, wall_s = plan.file, sum(r.wall_s for r in runs) / len(runs)
    looked = (file.confirm.best + 1) * len(file.confirm.seeds) if file.confirm.best else 0
    count = (file.budget.trials or 0) + len(file.base_seeds) + looked
    gpu_s = wall_s * count * max(r.gpus for r in runs)
    lines = [
        f"time: at most {wall_s * count:,.0f} s one after the other, unpruned, by {len(runs)} "
        f"runs of the base; {cost(gpu_s, file.limits.price)}"
    ]
    for name in file.objectives:
        values = [v for r in runs if (v := r.metrics.get(name)) is not None]
        if len(values) > 1 and file.confirm.best:
            sd = inference.pool([values]).sd
            seen = planned_detectable(file, sd, len(values) - 1)
            lines.append(
                f"smallest detectable effect of the second look: {name} {number(seen)}, "
                f"from an SD of {number(sd)} over {len(values)} runs of the base"
            )
    return lines


def budget_words(file: SearchFile) -> str:
    """The budget as a reader says it."""
    budget = file.budget
    parts = [
        f"{budget.trials} trials" if budget.trials is not None else "",
        f"{budget.gpu_seconds:,.0f} GPU-seconds" if budget.gpu_seconds is not None else "",
        f"{budget.usd:,.2f} USD" if budget.usd is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def noise_words(noise: BaseNoise) -> list[str]:
    """The base in each objective, with its SD."""
    return [
        f"base: {name} {number(noise.mean[name])}, SD {number(noise.sd[name])} "
        f"over {len(noise.seeds)} seeds"
        for name in noise.mean
    ]


def pruning_words(objective: Objective, noise: BaseNoise) -> str | None:
    """Why no trial will be pruned; None where they may be."""
    if objective.watched is None:
        return (
            f"No trial is pruned: evaluations tell nothing of {objective.names[0]}."
            if len(objective.names) == 1
            else "No trial is pruned: Optuna prunes by one objective."
        )
    if noise.evaluations < 2:
        return "No trial is pruned: a run of the base has one evaluation, or no curve is stored."
    return None


def trial_words(at: int, answer: TrialResult, values: list[float] | None) -> str:
    """One trial that has ended, in a line."""
    head = f"trial {at}: "
    if values is not None:
        text = ", ".join(number(value) for value in values)
    else:
        text = f"{answer.outcome.replace('_', ' ')}" + (
            f" at step {answer.steps}" * bool(answer.steps)
        )
    known = ", recorded already" if answer.recorded else f", {answer.wall_s:.1f} s"
    reason = f": {answer.reason}" if values is None and answer.outcome != "pruned" else ""
    return f"{head}{text}{known}; {point(answer.overrides)}{reason}"


def print_found(console: "Console", found: SearchResult) -> None:
    """What a search says: its noise, its best trials, and the table of the second look."""
    counts = ", ".join(f"{n} {outcome}".replace("_", " ") for outcome, n in found.outcomes.items())
    price = None if found.price_usd is None else found.price_usd / max(found.gpu_s, 1e-9) * 3600
    say(
        console,
        f"{found.search}: {len(found.trials)} trials ({counts}); {cost(found.gpu_s, price)}",
    )
    for line in [*noise_words(found.noise), *warnings(found)]:
        say(console, line)
    best = found.best_row()
    if best is not None and best.values:
        shown = ", ".join(number(value) for value in best.values)
        say(console, f"best on the search's own seed: trial {best.number}, {shown}")
    if found.importances:
        parts = [f"{name} {100 * share:.0f} %" for name, share in found.importances.items()]
        say(console, "importance: " + ", ".join(parts))
    if found.claims:
        _print_claims(console, found)
    say(console, verdict(found))


def _print_claims(console: "Console", found: SearchResult) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for claim in found.claims:
        for name in found.objectives:
            table.add_row(*(Text(cell) for cell in claim_cells(claim, name)))
    console.print(table)
    for claim in found.claims:
        say(console, f"  trial {claim.pick.number}: {settings(claim)}")


def claim_cells(claim: Claim, name: str) -> list[str]:
    """A row of the confirmation table: one candidate in one objective."""
    return [
        str(claim.pick.number),
        f"{name} ({unit(name)})" if unit(name) else name,
        format.signed(f"{claim.pick.claimed[name]:+.3g}"),
        format.signed(f"{claim.pick.shrunk[name]:+.3g}"),
        _look_words(claim.confirm, name),
        _look_words(claim.next, name),
        verdict_of(claim),
    ]


def _look_words(seen: Look | None, name: str) -> str:
    effect = seen.effects.get(name) if seen is not None else None
    return DASH if effect is None else effect_words(effect)


def effect_words(effect: MetricResult) -> str:
    """An effect, and below it its interval; a logarithmic one in percent."""
    if effect.estimate is None:
        return effect.missing or "outside the measured range"
    return f"{phrases.estimate(effect)}\n{phrases.interval(effect)}"


def verdict_of(claim: Claim) -> str:
    """What the further looks say of a candidate, in a few words."""
    if claim.confirm is None:
        return "not looked at again"
    if not claim.confirm.survives:
        return f"not confirmed: {claim.confirm.reason}"
    if claim.lacks is not None:
        return f"confirmed; {claim.lacks}"
    if claim.next is not None and not claim.next.survives:
        return f"confirmed, but not at the next scale: {claim.next.reason}"
    return "confirmed"


def verdict(found: SearchResult) -> str:
    """The sentence that ends the report."""
    if not found.looks:
        return _unconfirmed(found)
    names = [f"trial {claim.pick.number}" for claim in found.survivors]
    detectable = ", ".join(f"{name} {number(found.detectable[name])}" for name in found.objectives)
    seen = f"Smallest detectable effect of the second look: {detectable}."
    lacking = [claim for claim in found.claims if claim.lacks is not None]
    if lacking:
        names = [f"trial {claim.pick.number}" for claim in lacking]
        return f"Confirmed, {lacking[0].lacks}: {', '.join(names)}. {seen}"
    if not names:
        return f"Nothing was confirmed: keep the base. {seen}"
    return f"Confirmed: {', '.join(names)}. {seen}"


def _unconfirmed(found: SearchResult) -> str:
    """The sentence that ends the report of a search without a second look."""
    if found.elsewhere:
        names = ", ".join(found.elsewhere)
        return f"The second look lies in another store ({names}): these are claims here."
    if found.best == 0:
        return "No second look was asked for: these are claims."
    if found.claims:
        return "No second look yet: these are claims."
    rows = [row for row in found.trials if row.outcome == "completed"]
    beyond = len(rows) - len(found.eligible())
    if rows and beyond == len(rows):
        return f"No trial kept every bound: all {beyond} with a value are beyond one."
    apart = f"; {beyond} beyond a bound do not count" if beyond else ""
    return f"No trial was better than the base's mean{apart}."


def warnings(found: SearchResult) -> list[str]:
    """What a reader has to know beside the numbers."""
    lines = [f"refused by the trainer: {text}" for text in found.refused]
    if found.later:
        lines.append(
            f"The second look is of {len(found.trials) - found.later} trials, {found.later} came "
            "later: the same command looks again where others are the best by now."
        )
    if "tokens_per_s" in found.objectives and found.noise.environments > 1:
        lines.append(
            f"The base ran in {found.noise.environments} environments: the trials' speeds are of "
            "several, and only the second look compares them inside blocks."
        )
    return lines
