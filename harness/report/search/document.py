"""Builds the documents of a search: its plan for a dry run, and its result."""

from collections.abc import Sequence
from typing import Any

from harness import format
from harness.format import plural
from harness.report import metric_text
from harness.report.document import (
    Block,
    Cell,
    Chart,
    Column,
    Document,
    Notes,
    Section,
    Table,
    Text,
    Tone,
    number,
    present,
    table,
)
from harness.report.search import charts
from harness.report.search.wording import (
    amount,
    answer,
    base_lines,
    budget,
    candidate_outcome,
    candidate_settings,
    outcome_counts,
    setting,
    short_names,
    warnings,
)
from harness.results.record import Record
from harness.search.confirm import ConfirmationResult
from harness.search.objective import unit
from harness.search.plan import SearchPlan
from harness.search.results import CandidateResult, SearchResult, planned_detectable
from harness.stats import inference

HOW = [
    "Trials run on one seed. The best of many runs owes part of its effect to luck.",
    "shrunk: the effect in the search times tau^2 / (tau^2 + its squared standard error), where "
    "tau is the SD of true effects over all trials of the search.",
    "held-out seeds: candidates and base on seeds that the search never used, as a study; arm "
    "minus base, with an interval corrected for all candidates.",
    "A candidate is confirmed if all its runs complete and it is better than the base in one "
    "objective, outside the interval, and worse in none.",
    "A trial that is pruned, rejected by the trainer, diverges, fails or runs out of memory has no "
    "value; the sampler learns from it which region to avoid.",
    "History: every trial with a value, the base's mean with one SD of its seeds, dotted lines at "
    "confirmed trials. Pareto front: trials that no other dominates, and the base.",
    "Importances: what separates good trials from the others (PED-ANOVA, arXiv 2304.10255), as a "
    "share; not an effect in the objective's unit.",
    "Parallel coordinates: one line for each completed trial, the darkest are the best fifth. "
    "Slices: each parameter alone; darker is later.",
]


# --- the result -----------------------------------------------------------------------------------


def search_document(result: SearchResult) -> Document:
    """The report of a search."""
    tone: Tone = "pass" if result.confirmed else "neutral"
    return Document(
        title=f"{result.search}: search report",
        answer=f"{result.search}: {answer(result)}",
        tone=tone,
        blocks=present(
            Notes(items=warnings(result), warning=True),
            _candidates(result),
            Text(
                paragraphs=[
                    f"trial {one.candidate.number}: {candidate_settings(one)}"
                    for one in result.candidates
                ]
            ),
            Text(paragraphs=_facts(result)),
            *_charts(result),
            Section(title="Trials", blocks=present(_trials(result)), folded=True),
            Section(title="How the numbers are made", blocks=[Notes(items=HOW)], folded=True),
        ),
        data=result,
    )


def _facts(result: SearchResult) -> list[str]:
    facts = [f"{outcome_counts(result)}; {format.gpu_cost(result.gpu_s, result.price)}"]
    facts += base_lines(result.noise)
    best = result.best_row()
    if best is not None and best.values:
        values = ", ".join(amount(value) for value in best.values)
        facts.append(f"best on the search's own seed: trial {best.number}, {values}")
    if result.importances:
        shares = [
            f"{name} {format.percent(share, 0)}" for name, share in result.importances.items()
        ]
        facts.append("importance: " + ", ".join(shares))
    if result.studies:
        effects = [f"{n} {amount(result.minimum_detectable[n])}" for n in result.objectives]
        facts.append(f"smallest detectable effect of the confirmation: {', '.join(effects)}")
        facts.append(f"confirmation studies: {', '.join(result.studies.values())}")
    return facts


def _candidates(result: SearchResult) -> Table:
    columns = [
        number("trial"),
        Column(title="objective"),
        number("in the search"),
        number("shrunk", stacked=True),
        number("held-out seeds"),
        number("next scale"),
        Column(title="result"),
    ]
    if not any(one.next for one in result.candidates):
        columns = [column for column in columns if column.title != "next scale"]
    if len(result.objectives) == 1:
        columns = [column for column in columns if column.title != "objective"]
    rows = [
        [cells[column.title] for column in columns]
        for one in result.candidates
        for name in result.objectives
        for cells in [_cells(one, name)]
    ]
    rules = {
        effect.rule
        for one in result.candidates
        if one.confirmation is not None
        for effect in one.confirmation.effects.values()
        if effect.rule
    }
    title = f"Candidates minus base: {_objectives(result)}"
    return table(columns, rows, title=title, caption="; ".join(sorted(rules)))


def _objectives(result: SearchResult) -> str:
    return ", ".join(f"{n} ({unit(n)})" if unit(n) else n for n in result.objectives)


def _cells(one: CandidateResult, name: str) -> dict[str, Cell | str]:
    candidate = one.candidate
    return {
        "trial": str(candidate.number),
        "objective": name,
        "in the search": format.signed(f"{candidate.search_effect[name]:+.3g}"),
        "shrunk": format.signed(f"{candidate.shrunk_effect[name]:+.3g}"),
        "held-out seeds": _effect(one.confirmation, name),
        "next scale": _effect(one.next, name),
        "result": Cell(text=candidate_outcome(one), tone="pass" if one.confirmed else "neutral"),
    }


def _effect(confirmation: ConfirmationResult | None, name: str) -> str:
    """An effect with its interval below it; a logarithmic one in percent."""
    effect = confirmation.effects.get(name) if confirmation is not None else None
    if effect is None:
        return format.DASH
    if effect.missing:
        return effect.missing
    return f"{metric_text.estimate(effect)}\n{metric_text.interval(effect)}".rstrip()


def _charts(result: SearchResult) -> list[Block]:
    blocks: list[Block] = [
        Chart(draw=lambda: charts.history(result), alt="objective of every trial, in order")
    ]
    if len(result.eligible()) < 2:
        return blocks
    if len(result.objectives) > 1:
        blocks.append(Chart(draw=lambda: charts.front(result), alt="two objectives of all trials"))
    if result.importances:
        blocks.append(
            Chart(draw=lambda: charts.importance(result), alt="importance of each parameter")
        )
    return [
        *blocks,
        Chart(draw=lambda: charts.parallel(result), alt="parameters of every trial as a line"),
        Chart(draw=lambda: charts.slices(result), alt="objective against each parameter"),
    ]


def _trials(result: SearchResult) -> Table:
    names = list(dict.fromkeys(name for row in result.trials for name in row.params))
    shown = short_names(names)
    rows = [
        [
            str(row.number),
            row.outcome.replace("_", " ") + ("" if row.feasible else ", beyond a bound"),
            *(map(amount, row.values) if row.values else [format.DASH] * len(result.objectives)),
            *(setting(row.params.get(name, format.DASH)) for name in names),
            str(row.steps or format.DASH),
            "recorded" if row.reused else format.duration(row.wall_s),
            row.reason or "",
        ]
        for row in result.trials
    ]
    titles = [*result.objectives, *(shown[name] for name in names), "steps", "wall time"]
    return table(
        ["trial", "outcome", *map(number, titles), Column(title="reason", optional=True)], rows
    )


# --- the plan -------------------------------------------------------------------------------------


def plan_document(plan: SearchPlan, records: Sequence[Record], blockers: Sequence[str]) -> Document:
    """The dry run: the space, the base in it, invalid ends; time and power from known records."""
    file = plan.file
    runs = (file.confirm.best + 1) * len(file.confirm.seeds) if file.confirm.best else 0
    start = plan.start
    confirmation = f"{plural(file.confirm.best, 'candidate')} and the base, {plural(runs, 'run')}"
    facts = [
        f"objective: {', '.join(file.objectives)}; budget: {budget(file)}",
        f"confirmation: {confirmation if runs else 'none (confirm.best is 0)'}",
        *_estimates(plan, records, runs),
    ]
    if start is None:
        facts.append("The base lies outside this space, so it is not a trial.")
    state = "cannot start" if blockers else "can start"
    question = f" ({file.question})" if file.question else ""
    return Document(
        title=f"{file.search}: search plan",
        answer=f"The search {file.search} {state}: {budget(file)}{question}",
        tone="failed" if blockers else "neutral",
        blocks=present(
            Notes(items=list(blockers), title="Blocked by", warning=True),
            _space(plan),
            Notes(items=plan.invalid, title="Rejected by the trainer", warning=True),
            Text(paragraphs=facts),
        ),
        data={
            "search": file.search,
            "blocked": list(blockers),
            "objectives": file.objectives,
            "budget": file.budget,
            "parameters": plan.space.names,
            "start": start,
            "invalid": plan.invalid,
            "confirmation_runs": runs,
            "estimates": facts[2:],
        },
    )


def _space(plan: SearchPlan) -> Table:
    start = plan.start or {}
    rows: list[list[str]] = [
        [f"trick {name}", "on or off", setting(bool(plan.base.tricks.get(name))), ""]
        for name in plan.space.switches
    ]
    for one in plan.space.dimensions:
        inside = start.get(one.path)
        only = f"{one.trick} {'on' if one.when else 'off'}" if one.trick else ""
        rows.append(
            [one.path, one.describe(), format.DASH if inside is None else setting(inside), only]
        )
    columns: list[Column | str] = ["parameter", "range", "base", "only with"]
    if not any(row[3] for row in rows):
        columns, rows = columns[:3], [row[:3] for row in rows]
    return table(columns, rows)


def _estimates(plan: SearchPlan, known: Sequence[Record], confirmation_runs: int) -> list[str]:
    """The time at most, its cost, and the smallest detectable effect, from runs of the base."""
    runs = [r for r in known if r.identity == plan.base.identity and r.status == "completed"]
    if not runs:
        return ["time, cost and smallest detectable effect: unknown until the base has run"]
    file, wall_s = plan.file, sum(r.wall_s for r in runs) / len(runs)
    count = (file.budget.trials or 0) + len(file.base_seeds) + confirmation_runs
    gpu_s = wall_s * count * max(r.gpus for r in runs)
    source = f"{plural(len(runs), 'run')} of the base"
    lines = [
        f"time: at most {format.duration(wall_s * count)} one run after the other, without "
        f"pruning, estimated from {source}; {format.gpu_cost(gpu_s, file.limits.price)}"
    ]
    for name in file.objectives:
        values: list[Any] = [v for r in runs if (v := r.metrics.get(name)) is not None]
        if len(values) > 1 and file.confirm.best:
            sd = inference.pool([values]).sd
            effect = planned_detectable(file, sd)
            lines.append(
                f"smallest detectable effect of the confirmation: {name} {amount(effect)}, from "
                f"an SD of {amount(sd)} over {plural(len(values), 'run')} of the base"
            )
    return lines
