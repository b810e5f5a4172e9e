"""The document of a study's report; terminal, Markdown and HTML are rendered from it."""

from collections.abc import Iterable
from statistics import fmean, stdev
from typing import Any

import msgspec

from harness import format
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
    present,
    table,
)
from harness.report.study import charts, core, export, phrases
from harness.report.study.content import (
    COSTS,
    Content,
    difference,
    flatten,
    settings_text,
)
from harness.report.study.core_tasks import StudyCore
from harness.report.study.curves import MOST_SEEDS, ArmCurve, arm_curves
from harness.results.study_plan import Arm
from harness.study.effects import Effect, RunRow

LINES_PER_CHART = 9  # of loss curves, the base's among them
OUTSIDE = "* outside the noise interval"


def build(content: Content) -> Document:
    """The whole report."""
    result = content.attribution
    return Document(
        title=f"Study {result.study}",
        answer=phrases.answer(result),
        blocks=present(
            Text(paragraphs=_facts(content)),
            Chart(draw=lambda: charts.bars(content), alt=phrases.effects_title(result)),
            _effects(content),
            _times(content),
            _sizes(content),
            Notes(items=_reading(content)),
            Notes(items=phrases.all_warnings(result), title="Warnings", warning=True),
            Notes(items=phrases.missing_lines(result), title="Missing", warning=True),
            _no_effect(content),
            *_curves(content),
            _throughput(content),
            *_core(content),
            _runs(content),
            _unfinished(content),
            _arms(content),
            _all_runs(content),
            _environments(content),
            _configurations(content),
            Section(
                title="How the numbers are made",
                blocks=[Notes(items=_method(content))],
                folded=True,
            ),
        ),
        data=export.data(content),
    )


def _facts(content: Content) -> list[str]:
    result = content.attribution
    return [
        *([result.question] if result.question else []),
        f"{phrases.progress_line(result)} Cost: {phrases.price_line(result)}. Trainer: "
        f"{content.study.trainer}.",
    ]


# --- effects --------------------------------------------------------------------------------------


def _number(title: str, *, optional: bool = False, stacked: bool = False) -> Column:
    return Column(title=title, align="right", optional=optional, stacked=stacked)


def _effects(content: Content) -> Table:
    result, labels = content.attribution, phrases.short_labels(content.attribution)
    primary = result.primary
    rest = [metric for metric in content.metrics[1:] if metric not in COSTS]
    columns = ["trick", _number("runs"), _number(primary), _number("MDE")]
    columns += [_number(phrases.title(name), optional=index > 1) for index, name in enumerate(rest)]
    rows = [
        [
            labels[arm.name],
            phrases.runs_of(arm),
            _effect(arm.effects[primary]),
            phrases.detectable(arm.effects[primary]),
            *(_effect(arm.effects[metric]) for metric in rest),
        ]
        for arm in content.ranked
    ]
    return table(columns, rows, title=phrases.effects_title(result), caption=f"{OUTSIDE}.")


def _times(content: Content) -> Table:
    labels = phrases.short_labels(content.attribution)
    columns = ["trick", _number("training time"), _number("MDE"), "in ln T: quality + speed"]
    rows = [
        [
            labels[arm.name],
            _effect(time.total),
            phrases.detectable(time.total),
            phrases.parts(time),
        ]
        for arm in content.ranked
        if (time := arm.time_to_target) is not None
    ]
    return table(columns, rows, title="Time to the base's final loss")


def _sizes(content: Content) -> Table:
    labels = phrases.short_labels(content.attribution)
    costs = [metric for metric in content.metrics if metric in COSTS]
    titles = [*map(phrases.title, costs), "parameters", "FLOPs/token"]
    rows = [
        [
            labels[arm.name],
            *(_effect(arm.effects[metric]) for metric in costs),
            phrases.change_of_count(arm.parameters.delta),
            phrases.change_of_count(arm.flops_per_token.delta),
        ]
        for arm in content.ranked
    ]
    return table(["trick", *map(_number, titles)], rows, title="Memory, compile time and size")


def _effect(effect: Effect) -> Cell:
    if effect.missing:
        return Cell(text=format.DASH)
    shown, _, beyond = phrases.estimate(effect).partition(", ")
    below = beyond or phrases.interval(effect) or ("no interval" if effect.no_interval else "")
    text = f"{shown} *" if effect.outside else shown
    return Cell(text=f"{text}\n{below}" if below else text, bold=bool(effect.outside))


def _reading(content: Content) -> list[str]:
    result = content.attribution
    sentences = [
        phrases.base_line(result),
        phrases.how_to_read(result),
        "MDE: minimum detectable effect, the smallest true change that this comparison would have "
        "distinguished from zero with probability 0.9.",
        phrases.noise_line(result, result.primary),
        phrases.noise_line(result, result.speed),
        phrases.slope_line(result),
        phrases.winner_line(result),
    ]
    return [sentence for sentence in sentences if sentence]


def _no_effect(content: Content) -> Block:
    result, title = content.attribution, "No-effect tricks"
    if result.no_effect_tricks is None:
        text = "The study sets no margin (decide.margin), so no trick is judged to have no effect."
        return Section(title=title, blocks=[Text(paragraphs=[text])])
    margin = phrases.joined(f"±{value:g} {name}" for name, value in result.margin.items())
    if not result.no_effect_tricks:
        text = f"No trick's whole interval lies inside the margin ({margin})."
        return Section(title=title, blocks=[Text(paragraphs=[text])])
    columns: list[Column | str] = ["trick", "but helps in", _number("lines")]
    columns += [_number(name) for name in ("parameters", "memory", "compile time")]
    rows = [
        [
            item.trick,
            phrases.joined(map(phrases.title, item.pays_in)),
            str(item.lines),
            phrases.change_of_count(item.parameters),
            format.mebibytes(item.peak_memory_bytes),
            format.duration(item.compile_s),
        ]
        for item in result.no_effect_tricks
    ]
    return table(
        columns,
        rows,
        title=title,
        caption=f"Tricks whose whole interval lies inside the margin ({margin}), and what they "
        "cost. One that helps in nothing else can be deleted.",
    )


# --- curves, speed, CORE --------------------------------------------------------------------------


def _curves(content: Content) -> list[Block]:
    base = content.attribution.base
    curves = arm_curves(content, [base, *(arm.name for arm in content.ranked)])
    if not curves:
        return [Section(title="Loss curves", blocks=[Text(paragraphs=["No run left a curve."])])]
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
    return [Section(title="Loss curves", blocks=sections)]


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


def _throughput(content: Content) -> Section:
    title = "Throughput by arm and block"
    if not charts.throughput_rows(content):
        return Section(title=title, blocks=[Text(paragraphs=["No run measured its speed."])])
    alt = "Tokens/s of every run; speeds are compared along one line, never between lines"
    return Section(title=title, blocks=[Chart(draw=lambda: charts.throughput(content), alt=alt)])


def _core(content: Content) -> list[Block]:
    """The base task by task, then what every arm changes in each."""
    scores = content.core
    if scores is None:
        return []
    labels = phrases.short_labels(content.attribution)
    compared = {labels[name]: pair for name, pair in scores.arms.items() if pair is not None}
    pairs = list(compared.values())
    arms = [_number(label, optional=index > 1) for index, label in enumerate(compared)]
    details = [
        Section(
            title=f"{label} (B) against the base (A)",
            blocks=[
                table(core.TOTAL_TITLES, [core.total_cells(pair, total) for total in pair.totals]),
                table(
                    core.PAIR_TITLES,
                    [core.pair_cells(pair, index) for index in range(len(pair.tasks))],
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
                table(["task", *arms], core.change_rows(pairs), title="Change of accuracy by task"),
                Notes(items=core.study_sentences(pairs, scores.missing)),
                *details,
            ),
        )
    ]


def _core_of_base(content: Content, scores: StudyCore) -> Table:
    task, *numbers = core.TASK_TITLES
    return table(
        [task, *map(_number, numbers)],
        core.task_rows(scores.base),
        title=f"The base: {content.attribution.base}",
        caption=f"{core.about(scores.base)}.",
    )


# --- runs, arms, details --------------------------------------------------------------------------


def _runs(content: Content) -> Table:
    """One line per arm."""
    result = content.attribution
    columns: list[Column | str] = ["arm", _number("completed"), _number(result.primary)]
    columns += [_number("SD"), _number(phrases.title(result.speed)), _number("run time")]
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


def _unfinished(content: Content) -> Table:
    rows = [
        [row.arm, str(row.seed), row.status, str(row.attempts), row.reason or ""]
        for row in content.attribution.runs
        if row.status not in ("completed", "not run")
    ]
    columns = ["arm", _number("seed"), "status", _number("attempts"), "reason"]
    return table(columns, rows, title="Runs that did not complete")


def _arms(content: Content) -> Table:
    columns = ["arm", "settings beyond the base file", _number("parameters")]
    rows = [
        [
            arm.name,
            settings_text(arm),
            format.count(arm.derived.get("parameters_total")),
            format.count(arm.derived.get("flops_per_token")),
        ]
        for arm in content.study.arms
        if arm.role != "retune"
    ]
    return table([*columns, _number("FLOPs/token")], rows, title="Arms")


def _all_runs(content: Content) -> Section:
    result = content.attribution
    columns = ["arm", _number("seed"), _number("block"), "status", _number(result.primary)]
    names = ("wall time", "harness overhead", "session", "concurrent runs", "GPUs")
    columns += [_number(result.speed), *map(_number, names), "reason"]
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
    blocks = [
        Text(paragraphs=[facts]),
        Text(paragraphs=[content.study.command], preformatted=True),
        table(columns, rows),
    ]
    return Section(title=f"All {format.plural(len(rows), 'run')}", blocks=blocks, folded=True)


def _environments(content: Content) -> Section:
    result = content.attribution
    blocks = []
    for environment_id, environment in result.environments.items():
        runs = sum(row.environment_id == environment_id for row in result.runs)
        rows = [[path, _json(value)] for path, value in flatten(environment).items()]
        blocks.append(
            table(["field", "value"], rows, title=f"{environment_id}: {format.plural(runs, 'run')}")
        )
    return Section(title="Environments", blocks=blocks, folded=True)


def _configurations(content: Content) -> Section:
    base = content.base
    blocks = [_every_value(base, f"{base.name}: every value")]
    for arm in content.study.arms:
        if arm is not base:
            rows = [[path, _json(a), _json(b)] for path, a, b in difference(base, arm)]
            fields = table(["field", "base", arm.name], rows)
            text = settings_text(arm).split("\n")
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


def _method(content: Content) -> list[str]:
    sentences = [
        "Loss and memory are compared over all completed runs of an arm, with one SD pooled over "
        "the arms unless their variances differ (Brown-Forsythe test at 0.01); then each "
        "comparison uses its own SDs (Welch).",
        "Speed is compared inside blocks only: runs of one session on one machine, in shuffled "
        "order, by ln(tokens/s) = block + arm.",
        "The minimum detectable effect is the true change that this comparison would have "
        "distinguished from zero with probability 0.9.",
        f"Loss curves: training loss, averaged over equal numbers of steps and over the first "
        f"{MOST_SEEDS} seeds of an arm; bands are the range over the seeds, diamonds are "
        "validation losses.",
        "Bars: the grey area is the margin of the study.",
    ]
    if content.has_time:
        sentences.append(
            "Time to target: the loss difference divided by the slope of the base's final loss "
            "over ln(training tokens), plus the change of ln(seconds per token). The two parts add "
            "exactly; the interval includes the error of the slope."
        )
    if content.attribution.alpha:
        sentences.append("Corrections hold for all arms in one metric, not across metrics.")
    return sentences


def _or_dash(value: float | None, form: str = "") -> str:
    return format.DASH if value is None else f"{value:{form}}"


def _json(value: Any, indent: int | None = None) -> str:
    encoded = msgspec.json.encode(value)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
