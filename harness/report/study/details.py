"""The parts of a study's report after the effects: curves, CORE, runs, arms, configurations."""

from collections.abc import Iterable
from statistics import fmean, stdev
from typing import Any, TypeAlias

import msgspec

from harness import format
from harness.redact import redact_values
from harness.report.document import (
    Block,
    Cell,
    Chart,
    Column,
    Notes,
    Section,
    Table,
    Text,
    number,
    present,
    table,
)
from harness.report.study import charts, phrases
from harness.report.study import core as core_cells
from harness.report.study.content import Content, difference, flatten, own_settings
from harness.report.study.curves import ArmCurve, arm_curves
from harness.results.study_plan import Arm
from harness.study.effects import RunRow

LINES_PER_CHART = 9  # of loss curves, the base's among them
Columns: TypeAlias = list[Column | str]
Rows: TypeAlias = list[list[Cell | str]]


# --- curves, speed, CORE --------------------------------------------------------------------------


def curves(content: Content) -> list[Block]:
    base = content.attribution.base
    curves, damaged = arm_curves(content, [base, *(arm.name for arm in content.ranked)])
    notes: list[Block] = [Text(paragraphs=[f"Damaged, and left out: {one}"]) for one in damaged]
    if not curves:
        text = Text(paragraphs=["No run left a curve."])
        return [Section(title="Loss curves", blocks=[text, *notes])]
    batches = _batches(curves, base)
    sections = [
        Section(title="Against tokens", blocks=[_curve_chart(b, base, "tokens") for b in batches]),
        Section(
            title="Against training time",
            blocks=[_curve_chart(batch, base, "train_time_s") for batch in batches],
        ),
    ]
    if curves[0].arm == base and len(curves) > 1:
        title = "Difference from the base at the same tokens"
        sections.append(
            Section(title=title, blocks=[_difference_chart(batch, base) for batch in batches])
        )
    return [Section(title="Loss curves", blocks=[*notes, *sections])]


def _batches(curves: list[ArmCurve], base: str) -> list[list[ArmCurve]]:
    """At most `LINES_PER_CHART` curves a chart, the base in each."""
    first = [curve for curve in curves if curve.arm == base]
    rest = [curve for curve in curves if curve.arm != base]
    size = LINES_PER_CHART - 1
    return [first + rest[at : at + size] for at in range(0, max(1, len(rest)), size)]


def _curve_chart(batch: list[ArmCurve], base: str, axis: str) -> Chart:
    arms = ", ".join(curve.arm for curve in batch)
    alt = f"Training loss against {axis} of {arms}"
    return Chart(draw=lambda: charts.loss_curves(batch, base, axis), alt=alt)


def _difference_chart(batch: list[ArmCurve], base: str) -> Chart:
    arms = ", ".join(curve.arm for curve in batch[1:])
    return Chart(
        draw=lambda: charts.loss_differences(batch, base), alt=f"Loss minus the base's of {arms}"
    )


def throughput(content: Content) -> Section:
    title = "Throughput by arm and block"
    if not charts.throughput_rows(content):
        return Section(title=title, blocks=[Text(paragraphs=["No run measured its speed."])])
    alt = "Tokens/s of every run; speeds are compared along one line, never between lines"
    return Section(title=title, blocks=[Chart(draw=lambda: charts.throughput(content), alt=alt)])


def core(content: Content) -> list[Block]:
    """The base task by task, then what every arm changes in each."""
    scores = content.core
    if scores is None:
        return []
    labels = phrases.short_labels(content.attribution)
    compared = {labels[name]: pair for name, pair in scores.arms.items() if pair is not None}
    pairs = list(compared.values())
    arms = [number(label, optional=index > 1) for index, label in enumerate(compared)]
    details = [
        Section(
            title=f"{label} (B) against the base (A)",
            blocks=[
                table(
                    core_cells.TOTAL_TITLES,
                    [core_cells.total_cells(pair, total) for total in pair.totals],
                ),
                table(
                    core_cells.PAIR_TITLES,
                    [core_cells.pair_cells(pair, index) for index in range(len(pair.tasks))],
                ),
            ],
            folded=True,
        )
        for label, pair in compared.items()
    ]
    return [
        Section(
            title="CORE by task",
            blocks=present(
                _core_of_base(content, scores),
                table(
                    ["task", *arms],
                    core_cells.change_rows(pairs),
                    title="Change of accuracy by task",
                ),
                Notes(items=core_cells.study_sentences(pairs, scores.missing)),
                *details,
            ),
        )
    ]


def _core_of_base(content: Content, scores: core_cells.StudyCore) -> Table:
    task, *numbers = core_cells.TASK_TITLES
    return table(
        [task, *map(number, numbers)],
        core_cells.task_rows(scores.base),
        title=f"The base: {content.attribution.base}",
        caption=f"{core_cells.about(scores.base)}.",
    )


# --- runs, arms, details --------------------------------------------------------------------------


def runs(content: Content) -> Table:
    """One line per arm."""
    result = content.attribution
    columns: Columns = ["arm", number("completed"), number(result.primary)]
    columns += [number("SD"), number(phrases.title(result.speed))]
    columns.append(number("run time", optional=True))
    rows = []
    for arm in content.study.arms:
        runs = [row for row in result.runs if row.arm == arm.name]
        done = [row for row in runs if row.status == "completed"]
        values = _values(done, result.primary)
        speeds = _values(done, result.speed)
        times = [row.wall_s for row in done if row.wall_s is not None]
        rows.append(
            [
                arm.name,
                f"{len(done)}/{len(runs)}",
                _or_dash(fmean(values) if values else None, ".5f"),
                _or_dash(stdev(values) if len(values) > 1 else None, ".2g"),
                _or_dash(fmean(speeds) if speeds else None, ",.0f"),
                format.duration(fmean(times) if times else None),
            ]
        )
    return table(columns, rows, title="Runs")


def _values(rows: Iterable[RunRow], metric: str) -> list[float]:
    return [value for row in rows if (value := row.metrics.get(metric)) is not None]


def unfinished(content: Content) -> Table:
    rows = [
        [row.arm, str(row.seed), row.status, str(row.attempts), row.reason or ""]
        for row in content.attribution.runs
        if row.status not in ("completed", "not run")
    ]
    columns: Columns = ["arm", number("seed"), "status", number("attempts"), "reason"]
    return table(columns, rows, title="Runs that did not complete")


def arms(content: Content) -> Table:
    columns: Columns = ["arm", "settings"]
    columns += [number("parameters"), number("FLOPs/token")]
    rows = [
        [
            arm.name,
            "\n".join(own_settings(content.base, arm)) or format.DASH,
            format.count(arm.derived.get("parameters_total")),
            format.count(arm.derived.get("flops_per_token")),
        ]
        for arm in content.study.arms
        if arm.role != "retune"
    ]
    caption = "Settings of the base are those beyond its file, of other arms those beyond the base."
    return table(columns, rows, title="Arms", caption=caption)


def all_runs(content: Content) -> Section:
    result = content.attribution
    columns: Columns = ["arm", number("seed"), number("block"), "status"]
    columns.append(number(result.primary))
    names = ("wall time", "harness overhead", "session", "concurrent runs", "GPUs")
    columns += [number(result.speed), *map(number, names), "reason"]
    rows = [
        [
            row.arm,
            str(row.seed),
            _or_dash(row.block),
            row.status,
            _or_dash(row.metrics.get(result.primary), ".5f"),
            _or_dash(row.metrics.get(result.speed), ",.0f"),
            format.duration(row.wall_s),
            format.duration(row.overhead_s),
            _or_dash(row.session),
            _or_dash(row.concurrent_runs),
            _or_dash(row.gpus),
            row.reason or "",
        ]
        for row in result.runs
    ]
    overhead = format.duration(result.price.overhead_per_run_s)
    facts = f"{phrases.price_line(result)}. Overhead of the harness: {overhead} per run."
    blocks: list[Block] = [
        Text(paragraphs=[facts]),
        Text(paragraphs=[content.study.command], preformatted=True),
        table(columns, rows),
    ]
    return Section(title=f"All {format.plural(len(rows), 'run')}", blocks=blocks, folded=True)


def environments(content: Content) -> Section:
    result = content.attribution
    blocks = []
    for environment_id, environment in result.environments.items():
        runs = sum(row.environment_id == environment_id for row in result.runs)
        rows = [[path, _json(value)] for path, value in flatten(environment).items()]
        blocks.append(
            table(["field", "value"], rows, title=f"{environment_id}: {format.plural(runs, 'run')}")
        )
    return Section(title="Environments", blocks=blocks, folded=True)


def configurations(content: Content) -> Section:
    base = content.base
    blocks = [_every_value(base, f"{base.name}: every value")]
    for arm in content.study.arms:
        if arm is not base:
            rows = [[path, _json(a), _json(b)] for path, a, b in difference(base, arm)]
            fields = table(["field", "base", arm.name], rows)
            text = own_settings(base, arm)
            blocks.append(
                Section(
                    title=f"{arm.name}: against the base",
                    blocks=present(Text(paragraphs=text), fields, _every_value(arm, "every value")),
                    folded=True,
                )
            )
    return Section(title="Configurations", blocks=blocks, folded=True)


def _every_value(arm: Arm, title: str) -> Section:
    identity = ", ".join(
        f"{name} {value}" for name, value in msgspec.structs.asdict(arm.identity).items()
    )
    blocks: list[Block] = [
        Text(paragraphs=[identity]),
        Text(paragraphs=[_json(arm.config, indent=2)], preformatted=True),
        Text(paragraphs=["Derived:"]),
        Text(paragraphs=[_json(arm.derived, indent=2)], preformatted=True),
    ]
    return Section(title=title, blocks=blocks, folded=True)


def _or_dash(value: float | None, form: str = "") -> str:
    return format.DASH if value is None else f"{value:{form}}"


def _json(value: Any, indent: int | None = None) -> str:
    encoded = msgspec.json.encode(redact_values(value))
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
