"""The document of a study's report; terminal, Markdown and HTML are rendered from it."""

from harness import format
from harness.comparison.result import MetricResult
from harness.metrics import COSTS
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
    number,
    present,
    table,
)
from harness.report.study import charts, details, export, phrases
from harness.report.study.content import Content
from harness.report.study.curves import MOST_SEEDS
from harness.report.study.details import Columns, Rows


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
            *details.curves(content),
            details.throughput(content),
            *details.core(content),
            details.runs(content),
            details.unfinished(content),
            details.arms(content),
            details.all_runs(content),
            details.environments(content),
            details.configurations(content),
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


def _effects(content: Content) -> Table:
    result, labels = content.attribution, phrases.short_labels(content.attribution)
    primary = result.primary
    rest = [metric for metric in content.metrics[1:] if metric not in COSTS]
    columns: Columns = ["trick", number("runs"), number(primary), number("MDE")]
    judged = any(arm.effects[primary].outcome is not None for arm in content.ranked)
    columns += [Column(title="outcome", stacked=True)] * judged
    columns += [number(phrases.title(name), optional=index > 1) for index, name in enumerate(rest)]
    rows: Rows = [
        [
            labels[arm.name],
            phrases.runs_of(arm),
            _effect(arm.effects[primary]),
            metric_text.detectable(arm.effects[primary]),
            *([arm.effects[primary].outcome or "informational"] * judged),
            *(_effect(arm.effects[metric]) for metric in rest),
        ]
        for arm in content.ranked
    ]
    caption = "* outside the noise interval."
    return table(columns, rows, title=phrases.effects_title(result), caption=caption)


def _times(content: Content) -> Table:
    labels = phrases.short_labels(content.attribution)
    columns: Columns = ["trick", number("training time"), number("MDE")]
    columns.append("in ln T: quality + speed")
    rows: Rows = [
        [
            labels[arm.name],
            _effect(time.total),
            metric_text.detectable(time.total),
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
    rows: Rows = [
        [
            labels[arm.name],
            *(_effect(arm.effects[metric]) for metric in costs),
            phrases.change_of_count(arm.parameters.delta),
            phrases.change_of_count(arm.flops_per_token.delta),
        ]
        for arm in content.ranked
    ]
    return table(["trick", *map(number, titles)], rows, title="Memory, compile time and size")


def _effect(effect: MetricResult) -> Cell:
    if effect.missing:
        return Cell(text=format.DASH)
    shown, _, beyond = metric_text.estimate(effect).partition(", ")
    below = beyond or metric_text.interval(effect) or ("no interval" if effect.no_interval else "")
    text = f"{shown} *" if effect.outside else shown
    return Cell(text=f"{text}\n{below}" if below else text, bold=bool(effect.outside))


def _reading(content: Content) -> list[str]:
    result = content.attribution
    sentences = [
        phrases.base_line(result),
        phrases.how_to_read(result),
        "MDE: minimum detectable effect, the smallest true change that this comparison would have "
        "distinguished from zero with probability 0.9.",
        phrases.outcome_line(result),
        phrases.noise_line(result, result.primary),
        phrases.paired_line(result),
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
    columns: Columns = ["trick", "but helps in", number("lines")]
    columns += [number(name) for name in ("parameters", "memory", "compile time")]
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


def _method(content: Content) -> list[str]:
    sentences = [
        "Loss and memory are compared over all completed runs of an arm. Each arm has its own "
        "variance, moderated towards those of the others (empirical Bayes); runs of one seed are "
        "compared pairwise where that gives the shorter interval.",
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
            "Time to target: the ln(training tokens) after which the base would have the arm's "
            "loss, midway between a parabola and chords over the horizons, plus the change of "
            "ln(seconds per token). The two parts add exactly; the interval includes the error of "
            "the curve and of its shape."
        )
    if content.attribution.alpha:
        sentences.append("Corrections hold for all arms in one metric, not across metrics.")
    return sentences
