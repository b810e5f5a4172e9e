"""The report of a comparison, and the blocks that reports of gates and baselines share with it.

The answer first; then for each metric the difference, its interval, margin, smallest detectable
effect and outcome; then where noise and margins come from, and by which rule each metric was
decided.
"""

from collections.abc import Mapping, Sequence

import msgspec

from harness import format
from harness.comparison.core import PairedCore
from harness.comparison.result import ComparedSide, Comparison, MetricResult, TargetResult
from harness.metrics import COMPARED, QUALITY, metric_named
from harness.report.document import (
    Block,
    Cell,
    Column,
    Document,
    Notes,
    Section,
    Table,
    Tone,
    present,
    table,
)
from harness.report.metric_text import (
    detectable,
    estimate,
    interval,
    margin,
    means,
    noise,
    outcome,
)
from harness.results.logs.read import MEMBER
from harness.results.logs.regex import FAMILY as UNKNOWN_FORMAT
from harness.results.logs.tables import FAMILY as TABLE
from harness.stats.decision import Outcome

TONES: dict[Outcome | None, Tone] = {
    "pass": "pass",
    "regression": "regression",
    "inconclusive": "inconclusive",
    None: "neutral",
}
PICTURE_COLUMNS = 17
MAX_SOURCES = 2


def build_comparison(
    comparison: Comparison, *, tasks: bool = False, again: str | None = None
) -> Document:
    """The report of two sides; `tasks`: CORE task by task is shown and not folded away.

    `again`: the command line of the next reading, advised where more runs would decide.
    """
    again = again if comparison.more_runs else None
    return Document(
        title="Comparison",
        answer=comparison.reason,
        tone=TONES[comparison.outcome],
        blocks=present(
            Notes(items=comparison.findings, warning=True),
            Notes(items=[side_line(side) for side in comparison.sides]),
            results_table(comparison.metrics),
            *target_blocks(comparison.targets),
            *_without_outliers(comparison),
            *core_blocks(comparison.core, tasks=tasks),
            Notes(items=[*_advice(comparison, again), *_notes(comparison)]),
        ),
        data={
            **msgspec.to_builtins(comparison),
            "exit_code": comparison.exit_code,
            "next_command": again,
        },
    )


def _without_outliers(comparison: Comparison) -> list[Block]:
    """The results without the runs that stand out, beside those of all runs."""
    if comparison.without_outliers is None:
        return []
    sources = list(dict.fromkeys(one.source for one in comparison.outliers))
    title = f"The same without {', '.join(sources)}; the outcome is that of all runs"
    return [results_table(comparison.without_outliers, title=title)]


def results_table(
    results: Sequence[MetricResult], counts: Mapping[str, str] | None = None, title: str = ""
) -> Table:
    """One row a metric. `counts`: n in words by metric, where n does not count runs."""
    columns = [
        Column(title="metric"),
        Column(title="n", stacked=True),
        Column(title="A", align="right"),
        Column(title="B", align="right", stacked=True),
        Column(title="B − A", align="right"),
        Column(title="interval", align="right", stacked=True),
        Column(title="margin", align="right"),
        Column(title="MDE", align="right", stacked=True),
        Column(title="outcome"),
        Column(title="better ┃ worse", optional=True),
    ]
    return table(columns, [_row(one, counts or {}) for one in results], title=title)


def _row(result: MetricResult, counts: Mapping[str, str]) -> list[Cell | str]:
    n = result.n
    runs = str(n[0]) if n[0] == n[1] else f"{n[0]}, {n[1]}"
    decided = result.outcome is not None
    text, _, rest = outcome(result).partition(", ")
    return [
        result.metric,
        counts.get(result.metric, runs),
        *means(result),
        estimate(result),
        interval(result) or format.DASH,
        margin(result),
        detectable(result).lstrip("±"),
        Cell(text=f"{text}\n{rest}".rstrip("\n"), tone=TONES[result.outcome], bold=decided),
        picture(result),
    ]


def target_blocks(targets: Sequence[TargetResult]) -> list[Block]:
    """One row for each target and side; none without a target."""
    if not targets:
        return []
    columns = [Column(title="target"), Column(title="side")]
    columns += [Column(title=title, align="right") for title in ("n", "mean", "SD", "p")]
    rows: list[list[Cell | str]] = []
    for one in targets:
        metric = metric_named(one.metric)
        goal = f"{one.metric} {metric.value(one.target)}, p < {one.level:g}"
        sd, p = (format.DASH if x is None else f"{x:.2g}" for x in (one.sd, one.p))
        outcome = Cell(text=_target_outcome(one), tone="pass" if one.passes else "inconclusive")
        rows.append([goal, one.side, str(one.n), metric.value(one.mean), sd, p, outcome])
    note = "target: its p holds for a number of runs that was fixed before they were seen"
    return [table([*columns, Column(title="outcome")], rows), Notes(items=[note])]


def _target_outcome(one: TargetResult) -> str:
    if one.passes:
        return "met"
    if one.p is None:
        return "not tested: equal runs, or one"
    if one.runs_needed is None:
        return "not met by this mean"
    return f"not met: needs {one.runs_needed} such runs"


def picture(result: MetricResult) -> str:
    """The interval on a line, worse to the right: ┃ no change, ╎ the margin, ● the estimate."""
    if result.low is None or result.high is None or result.estimate is None or not result.better:
        return ""
    ends = sorted((result.harm(result.low), result.harm(result.high)))
    reach = max(map(abs, [*ends, 1.2 * (result.margin or 0)])) or 1.0

    def column(value: float) -> int:
        return round((value / reach + 1) / 2 * (PICTURE_COLUMNS - 1))

    cells = ["─"] * PICTURE_COLUMNS
    for index in range(column(ends[0]), column(ends[1]) + 1):
        cells[index] = "━"
    cells[column(0)] = "┃"
    if result.margin:
        cells[column(result.margin)] = "╎"
    cells[column(result.harm(result.estimate))] = "●"
    return "".join(cells)


def core_blocks(paired: PairedCore | None, *, tasks: bool = False) -> list[Block]:
    """CORE of both sides on the same examples; task by task folded away unless `tasks`."""
    if paired is None:
        return []
    from harness.report.study import core  # with the CORE tables of studies, which most lack

    totals = table(
        [Column(title=title, stacked=index == 2) for index, title in enumerate(core.TOTAL_TITLES)],
        [core.total_cells(paired, one) for one in paired.totals],
    )
    pairs = table(
        [
            Column(title=title, stacked=index % 2 == 1)
            for index, title in enumerate(core.PAIR_TITLES)
        ],
        [core.pair_cells(paired, index) for index in range(len(paired.tasks))],
    )
    return [
        Section(
            title=core.heading(paired),
            blocks=[totals, Notes(items=core.sentences(paired, tasks=tasks))],
        ),
        Section(title="CORE task by task", blocks=[pairs], folded=not tasks),
    ]


# --- notes ----------------------------------------------------------------------------------------


def _advice(comparison: Comparison, again: str | None) -> list[str]:
    if again is None:
        return []
    more = format.plural(comparison.more_runs or 0, "more run")
    return [f"next: add about {more} to each side, then: {again}"]


def _notes(comparison: Comparison) -> list[str]:
    lines = rule_notes(comparison.metrics)
    for result in comparison.metrics:
        lines += result_notes(result)
    lines += comparison.notes
    lines += [line for side in comparison.sides for line in side.broken]
    return [*lines, reading(comparison.alpha)]


def rule_notes(results: Sequence[MetricResult]) -> list[str]:
    """'rule: one pair, one-sided 95 %'; one line for each rule that decided some metric."""
    by_rule: dict[str, list[str]] = {}
    for result in results:
        if result.rule and result.low is not None:
            by_rule.setdefault(result.rule, []).append(result.metric)
    if len(by_rule) == 1:
        return [f"rule: {rule}" for rule in by_rule]
    return [f"rule of {', '.join(names)}: {rule}" for rule, names in by_rule.items()]


def result_notes(result: MetricResult) -> list[str]:
    """Where the noise and the margin of one metric come from, and its caveats."""
    if result.margin is None and result.metric in COMPARED and result.metric not in QUALITY:
        return []
    limits = "" if result.margin is None else f"margin {margin(result)} ({result.margin_from})"
    sources = "; ".join(line for line in (noise(result), limits) if line)
    reasons = [result.reason] if result.reason else []
    notes = [sources] * bool(sources) + [*result.notes, *reasons]
    return [f"{result.metric}: {note}" for note in notes]


def reading(alpha: float) -> str:
    """How to read the table."""
    return (
        "pass: even the worse end of the interval is inside the margin. "
        "regression: even the better end is worse than no change. "
        f"Over all readings of one question, at most {100 * alpha:g} % of unchanged candidates are "
        "a regression in any metric, and a harm of the margin passes in at most "
        f"{100 * alpha:g} %. "
        "MDE: the smallest harm that these runs would have detected nine times in ten."
    )


def side_line(side: ComparedSide) -> str:
    """'A: 8 runs of gpt2-small, 1,480 steps, 8x NVIDIA H100, from baseline/'."""
    runs = format.plural(side.runs, "run")
    if side.whole < side.runs:
        runs = f"{side.whole} complete of {runs}"
    steps = f", {side.steps:,} steps" if side.steps else ""
    family = "" if side.family in (UNKNOWN_FORMAT, TABLE) else f" of {side.family}"
    scale = f" of {side.scale}" if side.scale else family
    gpus = " and ".join("GPU unknown" if name == "unknown" else name for name in side.gpus)
    return f"{side.name}: {runs}{scale}{steps}, {gpus}, from {_sources(side.sources)}"


def _sources(sources: Sequence[str]) -> str:
    """Few names in full; several as the folder or the arm that they share."""
    if len(sources) <= MAX_SOURCES:
        return ", ".join(sources)
    for mark, shown in ((MEMBER, ""), ("/", "/")):
        folders = {source.rpartition(mark)[0] for source in sources}
        if len(folders) == 1 and (folder := folders.pop()):
            return folder + shown
    return f"{sources[0]} and {len(sources) - 1} more"
