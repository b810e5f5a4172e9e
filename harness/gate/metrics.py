"""The results of a gate's replicates and launches, metric by metric, at one look of several.

Quality is that of completed runs against a baseline's; speed is the mean log ratio of launches;
memory and compile time are those of the launches. Each look is decided at the error rate that
O'Brien-Fleming boundaries leave it, or, under the always-valid rule, by the mixture test, so that
all looks together keep the error rate of the gate. Pure.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from harness.comparison import engine
from harness.comparison.compare import compare
from harness.comparison.margins import Margin
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.options import CompareOptions
from harness.comparison.result import MetricResult
from harness.comparison.rules import AlwaysValid, PlannedLook, Rule
from harness.gate.ab_interleaved import LOADER_WAIT_SHARE, AbLaunch
from harness.gate.result import SPEED, TRAJECTORY, Claim, Evidence, GateMetric, LookSchedule
from harness.metrics import METRICS, QUALITY
from harness.results.logs.from_store import logged_runs
from harness.results.logs.run_log import LoggedRun
from harness.results.record import Record
from harness.stats.ab_noise import OWN_LAUNCHES, LaunchSummary, summarize_launches
from harness.stats.decision import Difference, KnownSd, Outcome
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast
from harness.stats.spending import Reading

MEMORY, COMPILATION = "peak_memory_bytes", "compile_s"
OWN_NOISE = "the spread of these launches"


# --- quality --------------------------------------------------------------------------------------


def information_shares(n_a: int | None, looks: Sequence[int]) -> tuple[float, ...]:
    """The information at each look as a share of that at the last look.

    `looks` are numbers of candidate runs. All `n_a` runs of a baseline exist from the start; None
    where both sides grow.
    """
    if n_a is None:
        return tuple(n / looks[-1] for n in looks)
    last = 1 / n_a + 1 / looks[-1]
    return tuple(last / (1 / n_a + 1 / n) for n in looks)


def compare_quality(
    a: Sequence[Record],
    b: Sequence[Record],
    schedule: LookSchedule,
    noise_model: NoiseModel,
    reading: Reading,
    margins: Mapping[str, float],
    share: float = 1.0,
    both: bool = False,
) -> list[GateMetric]:
    """The quality of the completed runs `b` against `a`, at the look that they reach.

    `share`: of the error rate of a regression, the rest of which is another part's. `both`: the
    runs `a` are made like `b`, and do not exist from the start like a baseline's.
    Raises LogError where they are not comparable.
    """
    look = schedule.look_after(len(b))
    assert look is not None, f"{len(b)} runs are between the looks {schedule.looks}"
    sides = logged_runs(a, "base" if both else "baseline"), logged_runs(b, "candidate")
    names = [name for name in QUALITY if all(name in run.metrics for run in (*sides[0], *sides[1]))]
    stated = {name: value for name, value in margins.items() if name in names}
    options = CompareOptions(
        alpha=reading.alpha,
        metrics=names,
        margins=stated,
        regression_share=share,
        replicate="run" if both else "candidate run",
    )
    rule: Rule = AlwaysValid(reading=reading)
    if schedule.rule == "group_sequential":
        rule = PlannedLook(
            reading=reading,
            look=look,
            looks=schedule.max_looks,
            information=information_shares(None if both else len(a), schedule.looks),
            dfs=(None, tuple((n if both else len(a)) + n - 2.0 for n in schedule.looks)),
        )
    comparison = compare(*sides, options, noise_model, rule)
    return [
        _at_look(
            engine.finite(msgspec.structs.replace(one, notes=[*one.notes, *comparison.findings])),
            "replicates",
            look,
            schedule,
        )
        for one in comparison.metrics
    ]


def _at_look(
    result: MetricResult, evidence: Evidence, look: int, schedule: LookSchedule
) -> GateMetric:
    return GateMetric(
        result=result,
        evidence=evidence,
        look=look,
        looks=schedule.max_looks,
        rule=schedule.rule,
    )


def quality_row(a: Sequence[Record], metric: str, noise_model: NoiseModel) -> NoiseRow | None:
    """The noise model's row for runs like the baseline's, at other seeds."""
    runs = logged_runs(a, "baseline")
    return noise_model.find(runs[0].scale, metric, runs[0].gpu, "seed")


# --- speed ----------------------------------------------------------------------------------------


def compare_speed(
    launches: Sequence[AbLaunch],
    schedule: LookSchedule,
    row: NoiseRow | None,
    margin: Margin,
    reading: Reading,
    *,
    borrowed: bool = False,
    share: float = 1.0,
) -> GateMetric:
    """tokens/s of B against A, at the look that these launches reach, or between two looks.

    `row`: the noise model's for one launch; `borrowed`: from another recipe. `share`: of the error
    rate of a regression, the rest of which is another part's.
    """
    n, always_valid = len(launches), schedule.rule == "always_valid"
    known, ratios = row.known if row else None, [one.ratios for one in launches]
    summary = summarize_launches(ratios, known, keep=always_valid)
    if summary.noise == "own" and n < OWN_LAUNCHES:
        known = None  # not used, because the launches vary more than it allows
    look = schedule.look_after(n)
    rule: Rule = AlwaysValid(reading=reading)
    if not always_valid:
        rule = _launch_rule(schedule, look, known, reading)
    row_name = row.describe(other_recipe=borrowed) if row else ""
    result = engine.finite(_speed_result(launches, summary, rule, margin, row_name, share))
    looks_taken = sum(k < n for k in schedule.looks) if look is None else look
    return _at_look(result, "launches", looks_taken, schedule)


def _launch_rule(
    schedule: LookSchedule, look: int | None, known: KnownSd | None, reading: Reading
) -> PlannedLook:
    """The rule of a planned look, with a known SD or with the launches' own."""
    looks = schedule.looks
    if look is None:
        return PlannedLook(reading=reading, look=None, looks=schedule.max_looks)
    own = known is None or looks[-1] >= OWN_LAUNCHES
    df = tuple(known.df if known is not None and k < OWN_LAUNCHES else k - 1.0 for k in looks)
    return PlannedLook(
        reading=reading,
        look=look,
        looks=schedule.max_looks,
        information=tuple(k / looks[-1] for k in looks),
        dfs=(df if own else None,) * 2,
    )


def _speed_result(
    launches: Sequence[AbLaunch],
    summary: LaunchSummary,
    rule: Rule,
    margin: Margin,
    row_name: str,
    share: float,
) -> MetricResult:
    n, contrast = len(launches), summary.contrast
    start = engine.draft(
        METRICS[SPEED],
        (n, n),
        (_tokens_per_s(launches, 0), _tokens_per_s(launches, 1)),
        margin=margin,
        reason=loader_reason(launches),
        notes=_launch_notes(launches, summary),
        replicate="launch",
    )
    a_tokens, b_tokens = launches[0].batch_tokens
    difference = Difference(
        contrast=Contrast(
            estimate=math.log(b_tokens / a_tokens) - contrast.estimate,
            se=contrast.se,
            df=contrast.df,
        ),
        method="pooled" if summary.noise == "own" else "noise_model",
        sd=summary.launch_sd,
        run_sd=contrast.se * math.sqrt(n / 2),
    )
    source = _noise_source(summary, row_name, n)
    return engine.conclude(start, difference, rule, source, share=share)


def _noise_source(summary: LaunchSummary, row_name: str, n: int) -> str:
    if summary.noise == "noise_model":
        return row_name
    if summary.noise == "moderated":
        return f"{OWN_NOISE}, moderated by {row_name}"
    exceeded = row_name and n < OWN_LAUNCHES
    return f"{OWN_NOISE}, which exceeds {row_name}" if exceeded else OWN_NOISE


def loader_reason(launches: Sequence[AbLaunch]) -> str | None:
    """Why launches that wait for their data loader show nothing about the step, else None."""
    share = max(share for one in launches for share in one.loader_wait_share)
    if share <= LOADER_WAIT_SHARE:
        return None
    return (
        f"loader wait: {share:.2%} of step time, above {LOADER_WAIT_SHARE:.1%}: "
        "the data loader was measured and not the step"
    )


def _tokens_per_s(launches: Sequence[AbLaunch], side: int) -> float:
    logs = [math.log(one.batch_tokens[side] / one.step_s[side]) for one in launches]
    return math.exp(math.fsum(logs) / len(logs))


def _launch_notes(launches: Sequence[AbLaunch], summary: LaunchSummary) -> list[str]:
    notes = [_mode_note(launches, summary)]
    if not math.isnan(summary.window_sd):
        notes.append(f"SD of one A B B A window inside a launch {summary.window_sd:.2%}")
    if dropped := sum(one.dropped_windows for one in launches):
        windows = "1 window" if dropped == 1 else f"{dropped} windows"
        notes.append(f"{windows} dropped, because a side recompiled")
    return notes


def _mode_note(launches: Sequence[AbLaunch], summary: LaunchSummary) -> str:
    """The A/B mode, and what the interval is based on."""
    n, windows = len(launches), sum(len(one.ratios) for one in launches)
    number = "1 launch" if n == 1 else f"{n} launches"
    spread = {
        "noise_model": "the noise model's SD",
        "moderated": "their own spread, moderated by the noise model's",
        "own": "their own spread",
    }[summary.noise]
    if launches[0].mode == "sequential":
        return (
            "sequential A/B: whole processes one after the other, A B B A, without their warm-up "
            f"steps; the interval is based on {number}, one ratio each, and {spread}"
        )
    return (
        "interleaved A/B: both sides alive at once, A B B A of a few steps; the interval is based "
        f"on {number} with {windows} A B B A windows, and {spread}"
    )


def informational_speed(a: Sequence[Record], b: Sequence[Record]) -> list[GateMetric]:
    """The candidate's speed beside the baseline's stored one, without a decision.

    They were measured in different sessions, between which unchanged code differs by more than most
    changes do.
    """
    values = [[record.metrics.get(SPEED) or 0.0 for record in side] for side in (a, b)]
    if not all(value > 0 for side in values for value in side):
        return []
    logs = [math.fsum(map(math.log, side)) / len(side) for side in values]
    start = engine.draft(
        METRICS[SPEED],
        (len(a), len(b)),
        (math.exp(logs[0]), math.exp(logs[1])),
        reason="another session: compare speeds on one host with --base REF",
    )
    result = msgspec.structs.replace(start, estimate=logs[1] - logs[0])
    return [GateMetric(result=result, evidence="replicates", look=1, looks=1)]


def require_speed_up(claim: Claim, metric: GateMetric) -> GateMetric:
    """With --claims systems, speed passes only if even the worse end of the interval is faster."""
    result = metric.result
    if claim != "systems" or result.metric != SPEED or result.outcome != "pass" or result.improved:
        return metric
    reason = "claimed faster, and the interval does not show it"
    changed = msgspec.structs.replace(result, outcome="inconclusive", reason=reason)
    return msgspec.structs.replace(metric, result=changed)


# --- memory and compile time ----------------------------------------------------------------------


def compare_launch_costs(
    launches: Sequence[AbLaunch], reading: Reading, margins: Mapping[str, float], share: float = 1.0
) -> list[GateMetric]:
    """Peak memory and compile time of both sides, one value per launch.

    `share`: of the error rate of a regression, the rest of which is that of other metrics.
    """
    sides = tuple([_as_run(one, side) for one in launches] for side in (0, 1))
    names = [
        name
        for name in (MEMORY, COMPILATION)
        if all(name in run.metrics for side in sides for run in side)
    ]
    if not names:
        return []
    stated = {name: value for name, value in margins.items() if name in names}
    fraction = METRICS[MEMORY].margin.gpu_fraction
    by_default = _on_gpu(launches) and MEMORY in names and MEMORY not in stated
    if by_default:
        stated[MEMORY] = (fraction or 0.0) * sides[0][0].metrics[MEMORY]
    options = CompareOptions(
        alpha=reading.alpha,
        seen=reading.seen,
        metrics=names,
        margins=stated,
        replicate="launch",
        regression_share=share,
    )
    metrics = []
    for result in compare(sides[0], sides[1], options, NoiseModel([])).metrics:
        if result.metric == MEMORY and by_default:
            why = f"{fraction:.0%} of the base's, the default on a GPU"
            result = msgspec.structs.replace(result, margin_from=why)
        metrics.append(
            GateMetric(result=engine.finite(result), evidence="launches", look=1, looks=1)
        )
    return metrics


def decides_costs(launches: Sequence[AbLaunch], margins: Mapping[str, float]) -> bool:
    """Whether memory or compilation of these launches is compared with a margin."""
    return bool(launches) and (_on_gpu(launches) or bool({MEMORY, COMPILATION} & set(margins)))


def _on_gpu(launches: Sequence[AbLaunch]) -> bool:
    return all(one.on_gpu for one in launches)


def _as_run(launch: AbLaunch, side: int) -> LoggedRun:
    values = {MEMORY: launch.peak_memory_bytes[side], COMPILATION: launch.compile_s[side]}
    return LoggedRun(
        source=f"launch {launch.number}, {'AB'[side]}",
        family="launches",
        metrics={name: value for name, value in values.items() if value is not None},
        steps=1,
    )


# --- losses of the first steps --------------------------------------------------------------------


def compare_trajectories(
    launch: AbLaunch, row: NoiseRow | None = None, alpha: float = 0.05
) -> GateMetric:
    """Whether the losses of the first steps are equal.

    On a CPU they have to be equal bit by bit. On a GPU the order of summation may differ, and the
    losses diverge by an amount that `row` holds, measured by launches of unchanged code. A larger
    difference at the last step is a regression; without a row any difference is inconclusive.
    """
    a, b = launch.losses
    first = next((step for step, (x, y) in enumerate(zip(a, b, strict=True), 1) if x != y), None)
    reason = None if first is None else f"the losses differ from step {first} of {len(a)} on"
    outcome: Outcome = "pass" if first is None else "regression"
    known = row.known if row and first is not None and launch.on_gpu else None
    if first is not None and launch.on_gpu:
        outcome, reason = _within_noise(abs(a[-1] - b[-1]), known, alpha, f"{reason}")
    result = MetricResult(
        metric=TRAJECTORY,
        title=f"loss over {len(a)} steps",
        unit="nats/token",
        scale="difference",
        better="lower",
        n=(len(a), len(b)),
        means=(a[-1], b[-1]),
        estimate=b[-1] - a[-1] if known else max(abs(x - y) for x, y in zip(a, b, strict=True)),
        sd=known.sd if known else None,
        df=known.df if known else None,
        method="noise_model" if known else None,
        noise_from=row.describe() if row and known else "",
        outcome=outcome,
        reason=reason,
    )
    return GateMetric(result=result, evidence="trajectory", look=1, looks=1)


def _within_noise(
    difference: float, known: KnownSd | None, alpha: float, reason: str
) -> tuple[Outcome, str]:
    if known is None:
        return "inconclusive", (
            f"{reason}; on a GPU they may, and the noise model has no row for it: measure it with "
            "`harness gate CONFIG --base . --claims refactor`, or use --claims ml"
        )
    limit = t_quantile(1 - alpha / 2, known.df) * math.sqrt(2) * known.sd
    outcome: Outcome = "pass" if difference <= limit else "regression"
    return outcome, (
        f"{reason} and by {difference:.2g} at the last one; launches of unchanged code differ by "
        f"at most {limit:.2g}"
    )
