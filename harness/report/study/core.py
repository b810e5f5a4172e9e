"""CORE by task: tables and sentences for the reports of a comparison and of a study.

Every format uses these cells and sentences, so that they cannot disagree. A study's answers are
read from the store, only where it evaluated CORE. An arm that was evaluated differently, or whose
answers are missing, has a reason instead.
"""

from collections.abc import Mapping, Sequence

import msgspec

from harness.comparison.core import PairedCore, Scores, TaskPair, Total, paired, scores
from harness.errors import StoreError
from harness.format import DASH, duration, signed
from harness.metrics import CORE_SCORES
from harness.results import core_answers
from harness.results.core_answers import CoreAnswers
from harness.results.store import CORE_FOLDER, Store
from harness.stats.inference import Contrast
from harness.study.effects import ArmResult, Attribution

COVERS = (
    "how much the difference between these models would vary with other examples of the tasks; "
    "variation between seeds is not included"
)
TASK_TITLES = ("task", "examples", "accuracy", "SE", "centred", "soft", "time")


def task_rows(side: Scores) -> list[list[str]]:
    """Every task of one side, then CORE and soft CORE, each with its error over examples."""
    rows = [
        [
            task.name,
            f"{task.facts.examples:,}",
            f"{task.accuracy:.4f}",
            f"{task.accuracy_se:.4f}",
            plain(task.centred),
            plain(task.soft),
            duration(task.facts.seconds),
        ]
        for task in side.tasks
    ]
    errors, seconds = (f"{side.core_se:.4f}", f"{side.core_soft_se:.4f}"), duration(side.seconds)
    rows.append(["CORE", f"{side.examples:,}", "", errors[0], plain(side.core), "", seconds])
    return [*rows, ["soft CORE", "", "", errors[1], "", plain(side.core_soft), ""]]


def plain(score: float) -> str:
    """A score with a real minus sign."""
    return f"{score:.4f}".replace("-", "\N{MINUS SIGN}")


def about(side: Scores) -> str:
    """'1,200 examples of 6 tasks, bundle 7374df08, …': what was evaluated, and how."""
    settings = side.settings
    most = "all" if settings.max_per_task is None else f"at most {settings.max_per_task:,}"
    return (
        f"{side.examples:,} examples of {len(side.tasks)} tasks ({most} of a task), bundle "
        f"{settings.bundle[:8]}, long prompts {settings.long_prompts}, baselines "
        f"{settings.baselines}"
    )


# --- two sides ------------------------------------------------------------------------------------


TOTAL_TITLES = ("", "A ± SE", "B ± SE", "B − A", "over examples", "examples and runs")
PAIR_TITLES = (
    "task",
    "examples",
    "A",
    "B",
    "B − A",
    "over examples",
    "p",
    "only A, B",
    "centred A",
    "centred B",
    "soft A",
    "soft B",
)


def heading(paired: PairedCore) -> str:
    """What the two sides are compared on."""
    return (
        f"CORE on the same {about(paired.a)}; intervals at {100 * (1 - 2 * paired.alpha):g} %, "
        "over examples, and over examples and runs"
    )


def total_cells(paired: PairedCore, total: Total) -> list[str]:
    """CORE or soft CORE of both sides, under `TOTAL_TITLES`."""
    errors = f"{total.metric}_se"
    means = [
        f"{plain(getattr(side, total.metric))} ± {getattr(side, errors):.4f}"
        for side in (paired.a, paired.b)
    ]
    wide = DASH
    if total.wide_low is not None and total.wide_high is not None:
        wide = _limits(total.wide_low, total.wide_high)
    return [total.metric, *means, change(total), _limits(total.low, total.high), wide]


def pair_cells(paired: PairedCore, index: int) -> list[str]:
    """One task of both sides, under `PAIR_TITLES`."""
    task, a, b = paired.tasks[index], paired.a.tasks[index], paired.b.tasks[index]
    return [
        task.name,
        f"{a.facts.examples:,}",
        f"{a.accuracy:.4f}",
        f"{b.accuracy:.4f}",
        change(task),
        _limits(task.low, task.high),
        DASH if task.p is None else p_value(task.p) + "*" * task.marked,
        DASH if task.only_a is None else f"{task.only_a:,}, {task.only_b:,}",
        plain(a.centred),
        plain(b.centred),
        plain(a.soft),
        plain(b.soft),
    ]


def change(pair: TaskPair | Total) -> str:
    """'+0.0123'."""
    return signed(f"{pair.estimate:+.4f}")


def _limits(low: float, high: float) -> str:
    return f"[{signed(f'{low:+.4f}')}, {signed(f'{high:+.4f}')}]"


def p_value(p: float) -> str:
    """'0.31', '0.0042', '< 0.0001'."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def sentences(paired: PairedCore, *, tasks: bool) -> list[str]:
    """How to read the two tables; `tasks`: with the second one."""
    lines = [f"over examples: {COVERS}"]
    wide = paired.totals[0].wide_low is not None
    runs = paired.a.runs + paired.b.runs
    if wide and runs == 2:
        lines.append(
            "examples and runs: includes the noise between runs; with one run a side its overlap "
            "with the noise over examples is unknown, so this interval is conservative"
        )
    elif wide:
        lines.append("examples and runs: variation with other examples and other seeds")
    else:
        lines.append("examples and runs: the noise between runs is unknown here")
    if paired.p is not None and paired.only_a is not None and paired.only_b is not None:
        lines.append(
            f"McNemar over all examples: {paired.only_a:,} right in A only, {paired.only_b:,} in B "
            f"only, p {p_value(paired.p)}; it weights examples equally, CORE weights tasks equally"
        )
    if tasks:
        lines.append(_marks(paired))
    return lines


def _marks(paired: PairedCore) -> str:
    if paired.p is None:
        return "no p: McNemar's test compares two models, and a side here is several"
    return (
        f"p: McNemar's exact test of one task; * below {paired.alpha:g} after Holm's correction "
        f"over {len(paired.tasks)} tasks"
    )


# --- a study --------------------------------------------------------------------------------------


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


def change_rows(arms: Sequence[PairedCore]) -> list[list[str]]:
    """A row a task and a cell an arm: B minus A in accuracy; below them CORE and soft CORE."""
    names = [task.name for task in arms[0].tasks] if arms else []
    rows = [
        [name, *(change(arm.tasks[index]) + "*" * arm.tasks[index].marked for arm in arms)]
        for index, name in enumerate(names)
    ]
    for number, title in enumerate(("CORE", "soft CORE")[: 2 * bool(arms)]):
        totals = [arm.totals[number] for arm in arms]
        rows.append([title, *(f"{change(one)} {_limits(one.low, one.high)}" for one in totals)])
    return rows


def study_sentences(arms: Sequence[PairedCore], missing: Mapping[str, str]) -> list[str]:
    """How to read the tables of a study, and which arms are not in them."""
    lines = []
    if arms:
        level = f"{100 * (1 - 2 * arms[0].alpha):g} %"
        lines = [f"Intervals of CORE: {level}, over examples: {COVERS}.", f"{_marks(arms[0])}."]
    return [*lines, *(f"{name}: not compared in CORE: {why}" for name, why in missing.items())]
