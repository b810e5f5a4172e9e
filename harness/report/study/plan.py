"""The document of a dry run: arms, runs, time, cost and minimum detectable effects."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from harness import format
from harness.format import plural
from harness.report.document import Document, Notes, Text, number, present, table
from harness.report.study.content import own_settings, settings
from harness.results.study_plan import ResolvedStudy
from harness.study.budget import Budget, IntervalWidth, Sensitivity
from harness.study.run import StudyPlan

UNKNOWN = "unknown"
COUNTS: dict[str, Callable[[float], str]] = {
    "parameters_total": partial(format.count, digits=4),
    "flops_per_token": partial(format.count, digits=4),
    "steps": "{:,}".format,
}
NO_PRICE = "pass --price, or set limits.price, for the cost in USD"


def build(plan: StudyPlan) -> Document:
    """The plan, with what keeps the study from starting first."""
    study, budget = plan.study, plan.budget
    return Document(
        title=f"Plan of study {study.study}",
        answer=_answer(plan),
        tone="failed" if plan.blocked else "neutral",
        blocks=present(
            Notes(items=plan.blocked, title="Blocked", warning=True),
            Text(paragraphs=_facts(study, budget)),
            Notes(
                items=[*map(_sensitivity, budget.sensitivities), *_width(study, budget.width)],
                title="Minimum detectable effect of an arm "
                f"(alpha {study.decide.alpha:g}, power 0.9, {study.decide.correction}, "
                f"{plural(len(study.seeds), 'seed')})",
            ),
            Notes(items=plan.notes),
            _arms(study),
            Notes(items=_differences(study), title="Beyond the base"),
        ),
        data=_data(plan),
    )


def _answer(plan: StudyPlan) -> str:
    study, budget = plan.study, plan.budget
    own = (
        "pin: own, so arms also differ from the base in values that follow from their trick. "
        if study.pin == "own"
        else ""
    )
    if plan.blocked:
        return f"{own}The study {study.study} cannot start: {plan.blocked[0]}"
    time = UNKNOWN if budget.wall_s is None else f"about {format.duration(budget.wall_s)}"
    return (
        f"{own}The study {study.study} has {plural(budget.remaining, 'run')} left of "
        f"{budget.runs}; time: {time}."
    )


def _facts(study: ResolvedStudy, budget: Budget) -> list[str]:
    done = budget.runs - budget.remaining
    if budget.wall_s is None:
        time = f"{UNKNOWN} (no records, and no step of the base was measured)"
    else:
        time = f"about {format.duration(budget.wall_s)}, from {budget.time_from}"
    return [
        *([study.question] if study.question else []),
        f"runs: {budget.runs}, of which {done} {'is' if done == 1 else 'are'} recorded and "
        f"{budget.remaining} {'remains' if budget.remaining == 1 else 'remain'}",
        f"time: {time}",
        f"cost: {_cost(budget, study.limits.price)}",
        *_memory(study),
    ]


def _cost(budget: Budget, price: float | None) -> str:
    if budget.gpus_per_run == 0:
        return "no GPU is used"
    if budget.gpu_s is None:
        return f"{UNKNOWN}, because the time or the number of GPUs is"
    text = format.gpu_cost(budget.gpu_s, price)
    return text if price is not None else f"{text} ({NO_PRICE})"


def _memory(study: ResolvedStudy) -> list[str]:
    """The trainer's estimate for the arm that needs most; empty where it makes none."""
    estimates = {arm.name: arm.derived.get("memory_bytes") for arm in study.arms}
    known = {arm: size for arm, size in estimates.items() if isinstance(size, (int, float))}
    if not known:
        return []
    largest = max(known, key=lambda arm: known[arm])
    line = f"memory: up to about {known[largest] / 2**30:.2f} GiB a run ({largest}), estimated"
    fused = study.arm(largest).derived.get("memory_fused_bytes")
    if isinstance(fused, (int, float)) and fused < known[largest]:
        line += f"; {fused / 2**30:.2f} GiB with its fused kernels"
    return [line]


def _sensitivity(one: Sensitivity) -> str:
    if math.isinf(one.mde):
        return f"{one.metric}: none can be detected with one seed"
    if one.sd is None:
        return f"{one.metric}: {one.mde:.2f} SD; the SD is unknown (needs two runs of the base)"
    runs = f"over {plural(one.replicates, 'recorded run')} of the base"
    if one.unit == "relative":
        mde, sd = format.percent(one.mde, 2), format.percent(one.sd, 3)
        return f"{one.metric}: {mde}, from an SD of {sd} {runs}"
    return f"{one.metric}: {one.mde:.5f} {one.unit}, from an SD of {one.sd:.5f} {runs}"


def _width(study: ResolvedStudy, width: IntervalWidth | None) -> list[str]:
    """What more seeds would do for intervals that few runs make wide."""
    if width is None or width.enough is None or width.times_then is None:
        return []
    return [
        f"{plural(len(study.seeds), 'seed')}: an arm's own SD is poorly known, so intervals are "
        f"{width.times:.1f} times as wide as with known SDs; {width.enough} seeds make that "
        f"{width.times_then:.1f}"
    ]


def _arms(study: ResolvedStudy) -> Any:
    runs = Counter(planned.arm for planned in study.runs)
    numbers = map(number, ("parameters", "FLOPs/token", "steps", "runs"))
    rows = [
        [
            arm.name,
            arm.role.replace("_", " "),
            *(
                UNKNOWN if (value := arm.derived.get(name)) is None else form(value)
                for name, form in COUNTS.items()
            ),
            str(runs[arm.name]),
        ]
        for arm in study.arms
    ]
    return table(["arm", "role", *numbers], rows, title="Arms")


def _differences(study: ResolvedStudy) -> list[str]:
    """What each compared arm sets beyond the base, and which values are pinned or tuned."""
    base = study.arm("base")
    return [
        f"{arm.name}: {'; '.join(texts)}"
        for arm in study.arms
        if arm.role in ("leave_one_out", "add_one_in", "explicit")
        and (texts := own_settings(base, arm))
    ]


def _data(plan: StudyPlan) -> dict[str, Any]:
    study = plan.study
    return {
        "study": study.study,
        "question": study.question,
        "pin": study.pin,
        "seeds": study.seeds,
        "blocked": plan.blocked,
        "notes": plan.notes,
        "budget": plan.budget,
        "arms": [
            {"name": arm.name, "role": arm.role, **settings(arm), "derived": arm.derived}
            for arm in study.arms
        ],
    }
