"""report.html: the whole report as one file that opens without a network.

plotly's script stands in the file, and a content security policy forbids the page any request. The
text reads without the charts, prints, and follows the reader's light or dark theme. Needs the extra
`report` for the charts. Takes a `Content`, returns the page.
"""

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import msgspec

from harness import format
from harness.compare.result import MetricResult
from harness.report.study import charts, core
from harness.report.study import phrases as wording
from harness.report.study.content import Content, difference, flatten, settings
from harness.report.study.curves import MOST_SEEDS, arm_curves
from harness.report.study.markup import bullets, chart, document, folded, table
from harness.report.study.panels import panels
from harness.results.study_plan import Arm


def page(content: Content) -> str:
    """The HTML document."""
    found = content.found
    sections = [
        _header(content),
        _attribution(content),
        _curves(content),
        _throughput(content),
        _core(content),
        _barnacles(content),
        _runs(content),
        _environments(content),
        _configurations(content),
        _reading(content),
    ]
    return document(f"{found.study}: ablation report", sections)


def _header(content: Content) -> str:
    found = content.found
    first = f'<p class="first">{escape(" ".join(found.headlines))}</p>' if found.headlines else ""
    warnings = [*wording.all_warnings(found), *wording.missing_lines(found)]
    day = time.strftime("%Y-%m-%d", time.gmtime(content.study.created_at))
    facts = [
        f"Study <b>{escape(found.study)}</b>, resolved on {day}",
        escape(wording.progress_line(found)),
        f"Trainer: {escape(content.study.trainer)}",
        f"Price: {escape(wording.price_line(found))}.",
    ]
    return f'{first}<h1>{escape(found.question)}</h1><p class="facts">{" · ".join(facts)}</p>' + (
        f'<div class="warnings">{bullets(warnings)}</div>' if warnings else ""
    )


def _attribution(content: Content) -> str:
    found = content.found
    sentences = [
        wording.base_line(found),
        wording.noise_line(found, found.primary),
        wording.noise_line(found, found.speed),
        wording.slope_line(found),
        wording.winner_line(found),
    ]
    shade = " The grey band is the margin of the study." if found.margin else ""
    return (
        f"<section><h2>{escape(wording.effects_title(found))}</h2>"
        f"<p>{escape(wording.how_to_read(found))}{shade}</p>"
        f"{chart(charts.bars(panels(content)))}{_effects_table(content)}"
        f'<p class="small">* outside its noise interval. '
        f"{escape(' '.join(sentence for sentence in sentences if sentence))}</p></section>"
    )


def _effects_table(content: Content) -> str:
    found, labels = content.found, wording.short_labels(content.found)
    head = ["trick", "runs", wording.title(found.primary), "smallest detectable"]
    rest = content.metrics[1:]
    head += [wording.title(metric) for metric in rest]
    if content.has_time:
        head += ["time to target", "ln T = quality + speed"]
    head += ["parameters, FLOPs/token"]
    rows = []
    for arm in content.ranked:
        primary = arm.effects[found.primary]
        cells = [
            escape(labels[arm.name]),
            escape(wording.runs_of(arm)),
            _effect(primary),
            escape(wording.detectable(primary)),
            *(_effect(arm.effects[metric]) for metric in rest),
        ]
        if content.has_time and arm.time_to_target:
            cells += [
                _effect(arm.time_to_target.total),
                escape(wording.parts(arm.time_to_target)),
            ]
        parameters, flops = (
            wording.change_of_count(exact.delta) for exact in (arm.parameters, arm.flops_per_token)
        )
        cells.append(f"{parameters}<br>{flops}")
        rows.append(cells)
    return table(head, rows, kind="effects")


def _effect(effect: MetricResult) -> str:
    if effect.missing:
        return f'<span class="small" title="{escape(effect.missing)}">{format.DASH}</span>'
    shown, _, beyond = escape(wording.estimate(effect)).partition(", ")
    if beyond:
        return f'{shown}<br><span class="small">{beyond}</span>'
    shown = f"<b>{shown}&nbsp;*</b>" if effect.outside else shown
    below = wording.interval(effect)
    if effect.no_interval:
        why = escape(effect.no_interval)
        return f'{shown}<br><span class="small" title="{why}">no interval</span>'
    return f'{shown}<br><span class="small">{escape(below)}</span>' if below else shown


def _curves(content: Content) -> str:
    base = content.found.base
    drawn = arm_curves(content, [base, *(arm.name for arm in content.ranked)])
    if not drawn:
        return "<section><h2>Loss curves</h2><p>No run left a curve.</p></section>"
    apart = charts.differences(drawn, base)
    most = max(curve.seeds for curve in drawn)
    limit = f" The first {MOST_SEEDS} seeds of each arm are drawn." if most == MOST_SEEDS else ""
    parts = [
        "<section><h2>Loss curves</h2>",
        "<p>Training loss, averaged over stretches of steps and over the seeds; the bands are the "
        f"range over the seeds, diamonds are validation losses.{limit}</p>",
        "<h3>Against tokens</h3>",
        chart(charts.curves(drawn, base, "tokens")),
        "<h3>Against training time</h3>",
        chart(charts.curves(drawn, base, "train_time_s")),
    ]
    if apart is not None:
        parts += ["<h3>Difference from the base at the same tokens</h3>", chart(apart)]
    return "".join([*parts, "</section>"])


def _throughput(content: Content) -> str:
    figure = charts.throughput(content)
    if figure is None:
        return "<section><h2>Throughput</h2><p>No run measured its speed.</p></section>"
    return (
        "<section><h2>Throughput by arm and block</h2><p>Speeds are compared inside a block only: "
        "along one line here, never between lines.</p>"
        f"{chart(figure)}</section>"
    )


def _core(content: Content) -> str:
    found = content.core
    if found is None:
        return ""
    labels = wording.short_labels(content.found)
    compared = {labels[name]: pair for name, pair in found.arms.items() if pair is not None}
    parts = [
        f"<section><h2>CORE by task</h2><p>The base, {escape(core.about(found.base))}.</p>",
        table(core.TASK_TITLES, _markup(core.task_rows(found.base))),
    ]
    if compared:
        changes = _markup(core.change_rows(list(compared.values())))
        parts.append("<h3>Change of accuracy by task</h3>")
        parts.append(table(["task", *compared], changes))
    for label, pair in compared.items():
        totals = _markup(core.total_cells(pair, total) for total in pair.totals)
        tasks = _markup(core.pair_cells(pair, index) for index in range(len(pair.tasks)))
        body = table(core.TOTAL_TITLES, totals) + table(core.PAIR_TITLES, tasks)
        parts.append(folded(f"{escape(label)} (B) against the base (A)", body))
    lines = core.study_sentences(list(compared.values()), found.missing)
    return "".join([*parts, bullets(lines), "</section>"])


def _markup(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]


def _barnacles(content: Content) -> str:
    found = content.found
    if found.no_effect_tricks is None:
        text = "The study sets no margin (decide.margin), so no trick can be called idle."
        return f"<section><h2>No-effect tricks</h2><p>{text}</p></section>"
    margin = wording.joined(f"±{value:g} {name}" for name, value in found.margin.items())
    intro = f"Tricks whose whole interval lies inside the margin ({margin}), and what they cost."
    if not found.no_effect_tricks:
        return f"<section><h2>No-effect tricks</h2><p>{escape(intro)} There are none.</p></section>"
    rows = [
        [
            escape(item.trick),
            escape(wording.joined(wording.title(metric) for metric in item.pays_in)),
            str(item.lines),
            wording.change_of_count(item.parameters),
            format.mebibytes(item.peak_memory_bytes),
            format.duration(item.compile_s),
        ]
        for item in found.no_effect_tricks
    ]
    head = ["trick", "but pays in", "lines of code", "parameters", "peak memory", "compile time"]
    return (
        f"<section><h2>No-effect tricks</h2><p>{escape(intro)} One that pays in nothing else may "
        f"be deleted.</p>{table(head, rows)}</section>"
    )


def _runs(content: Content) -> str:
    found = content.found
    price = found.price
    head = [
        "arm",
        "seed",
        "block",
        "status",
        found.primary,
        found.speed,
        "wall time",
        "harness overhead",
        "session",
        "concurrent_runs",
        "GPUs",
        "reason",
    ]
    rows = [
        [
            escape(row.arm),
            str(row.seed),
            _or_dash(row.block),
            escape(row.status),
            _or_dash(row.metrics.get(found.primary), ".5f"),
            _or_dash(row.metrics.get(found.speed), ",.0f"),
            format.duration(row.wall_s),
            format.duration(row.overhead_s),
            _or_dash(row.session),
            _or_dash(row.concurrent_runs),
            _or_dash(row.gpus),
            escape(row.reason or ""),
        ]
        for row in found.runs
    ]
    overhead = format.duration(price.overhead_per_run_s)
    return (
        "<section><h2>What was run, and at what price</h2>"
        f"<p>{escape(wording.price_line(found))}. Overhead of the harness: {overhead} a run.</p>"
        f"<pre>{escape(content.study.command)}</pre>"
        f"{folded(f'All {len(rows)} runs', table(head, rows))}</section>"
    )


def _environments(content: Content) -> str:
    blocks = []
    for environment_id, environment in content.found.environments.items():
        rows = [[escape(path), _value(value)] for path, value in flatten(environment).items()]
        values = table(["", ""], rows, head=False)
        count = sum(row.environment_id == environment_id for row in content.found.runs)
        runs = f"{count} run{'s' * (count != 1)}"
        blocks.append(folded(f"{escape(environment_id)}: {runs}", values))
    return f"<section><h2>Environments</h2>{''.join(blocks)}</section>"


def _configurations(content: Content) -> str:
    base = content.base
    blocks = [folded(f"{escape(base.name)}: every value", _every_value(base))]
    for arm in content.study.arms:
        if arm is not base:
            blocks.append(folded(f"{escape(arm.name)}: against the base", _one_arm(base, arm)))
    return f"<section><h2>Configurations</h2>{''.join(blocks)}</section>"


def _one_arm(base: Arm, arm: Arm) -> str:
    rows = [
        [escape(path), _value(ours), _value(theirs)] for path, ours, theirs in difference(base, arm)
    ]
    words = [
        f"<p><b>{key}</b>: {escape(wording.joined(values))}</p>"
        for key, values in settings(arm).items()
        if values
    ]
    fields = table(["field", "base", arm.name], rows) if rows else "<p>No field differs.</p>"
    return "".join([*words, fields, folded("every value", _every_value(arm))])


def _every_value(arm: Arm) -> str:
    text = msgspec.json.format(msgspec.json.encode(arm.config), indent=2).decode()
    derived = msgspec.json.format(msgspec.json.encode(arm.derived), indent=2).decode()
    identity = ", ".join(
        f"{name} {value}" for name, value in msgspec.structs.asdict(arm.identity).items()
    )
    return (
        f'<p class="small">{escape(identity)}</p><pre>{escape(text)}</pre>'
        f"<p>Derived:</p><pre>{escape(derived)}</pre>"
    )


def _reading(content: Content) -> str:
    found = content.found
    sentences = [
        "Loss and memory are compared over all completed runs of an arm, with one SD pooled over "
        "the arms unless their variances differ (Brown-Forsythe, .01); then each comparison keeps "
        "its own (Welch).",
        "Speed is compared inside blocks only: runs of one session on one machine, in shuffled "
        "order, by ln(tokens/s) = block + arm.",
        "The smallest detectable effect is the true change that this comparison would have set "
        "apart from zero with probability .9.",
    ]
    if content.has_time:
        sentences.append(
            "Time to target: the loss difference divided by the slope of the base's final loss on "
            "ln(training tokens), plus the change of ln(seconds per token). The two parts add "
            "exactly; the interval carries the error of the slope."
        )
    if found.alpha:
        sentences.append("Corrections hold for all arms in one metric, not across metrics.")
    return f"<section><h2>How the numbers are made</h2>{bullets(sentences)}</section>"


def _or_dash(value: float | None, form: str = "") -> str:
    return format.DASH if value is None else f"{value:{form}}"


def _value(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return escape(text)
