"""The results of replicates and launches, metric by metric, at one look of several.

Quality is that of whole runs against a baseline's; speed is the mean log ratio of launches; memory
and compile time are those of the launches. Each look is decided at the error rate that
O'Brien-Fleming boundaries leave it, or, where no number of looks was planned, by the always-valid
mixture test, so that all looks together keep the error rate of the gate. Pure.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from harness.compare import engine
from harness.compare.comparability import source_of_variance
from harness.compare.compare import CompareOptions, compare
from harness.compare.margins import Margin
from harness.compare.noise_model import NoiseModel, NoiseRow
from harness.compare.result import MetricResult
from harness.compare.rules import AlwaysValid, PlannedLook, Rule
from harness.gate.ab_interleaved import LOADER_WAIT_SHARE, AbLaunch
from harness.gate.result import SPEED, TRAJECTORY, Claim, LookSchedule, MetricVerdict
from harness.metrics import METRICS, QUALITY
from harness.results.logs.from_store import logged_runs
from harness.results.logs.run_log import LoggedRun
from harness.results.record import Record
from harness.stats.ab_noise import OWN_LAUNCHES, LaunchSummary, summarize_launches
from harness.stats.decision import Difference, KnownSd, Outcome
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast
from harness.stats.sequential import look_tails

MEMORY, COMPILATION = "peak_memory_bytes", "compile_s"
OWN_NOISE = "the launches' own"


def shares(n_a: int, looks: Sequence[int]) -> tuple[float, ...]:
    """The information of each look as a share of the last one's: `n_a` runs are there from the
    start, `looks` of the candidate's come one by one."""
    last = 1 / n_a + 1 / looks[-1]
    return tuple(last / (1 / n_a + 1 / n) for n in looks)


def of_replicates(
    a: Sequence[Record],
    b: Sequence[Record],
    looks: LookSchedule,
    noise_model: NoiseModel,
    alpha: float,
    margins: Mapping[str, float],
) -> list[MetricVerdict]:
    """The quality of completed runs `b` against those of a baseline, at the look they reach.

    Raises LogError where they may not be compared.
    """
    look = looks.look_after(len(b))
    assert look is not None, f"{len(b)} runs are between the looks {looks.looks}"
    sides = logged_runs(a, "baseline"), logged_runs(b, "candidate")
    names = [name for name in QUALITY if all(name in run.metrics for run in (*sides[0], *sides[1]))]
    given = {name: value for name, value in margins.items() if name in names}
    options = CompareOptions(alpha=alpha, metrics=names, margins=given)
    rule: Rule = AlwaysValid(alpha=alpha)
    if looks.rule == "group_sequential":
        parts = shares(len(a), looks.looks)
        own_df = [len(a) + n - 2 for n in looks.looks]
        rule = _planned(alpha, look, looks, parts, own_df)
    return [
        MetricVerdict(
            judged=engine.finite(one),
            evidence="replicates",
            look=look,
            looks=looks.max_looks,
            rule=looks.rule,
        )
        for one in compare(*sides, options, noise_model, rule).metrics
    ]


def _planned(
    alpha: float, look: int, looks: LookSchedule, parts: Sequence[float], own_df: Sequence[float]
) -> PlannedLook:
    """One of the looks that were planned; its boundary is another one for an estimated SD."""
    tails = [look_tails(alpha, parts, df)[look - 1] for df in (None, own_df)]
    return PlannedLook(alpha=alpha, look=look, looks=looks.max_looks, tails=(tails[0], tails[1]))


def quality_row(a: Sequence[Record], metric: str, noise_model: NoiseModel) -> NoiseRow | None:
    """The noise model's row for runs like the baseline's."""
    runs = logged_runs(a, "baseline")
    return noise_model.find(
        runs[0].scale, metric, runs[0].gpu, source_of_variance(metric, runs, runs)
    )


# --- speed ----------------------------------------------------------------------------------------


def of_launch_ratios(
    launches: Sequence[AbLaunch],
    looks: LookSchedule,
    row: NoiseRow | None,
    margin: Margin,
    alpha: float,
    *,
    borrowed: bool = False,
) -> MetricVerdict:
    """tokens/s of B against A, at the look that these launches reach, or at none between two.

    `row`: the noise model's for one launch, perhaps `borrowed` from another recipe.
    """
    known, ratios = row.known if row else None, [one.ratios for one in launches]
    always = looks.rule == "always_valid"
    found = summarize_launches(ratios, known, keep=always, borrowed=borrowed)
    if not found.from_noise_model and len(launches) < OWN_LAUNCHES:
        known = None  # given up, because they differ by more than it allows
    n = len(launches)
    look = looks.look_after(n)
    rule: Rule = AlwaysValid(alpha=alpha, advice=alpha)
    if not always:
        rule = _launch_rule(looks, look, known, alpha)
    judged = _speed(
        launches, found, rule, margin, row.describe(other_recipe=borrowed) if row else ""
    )
    return MetricVerdict(
        judged=engine.finite(judged),
        evidence="launches",
        look=sum(k < n for k in looks.looks) if look is None else look,
        looks=looks.max_looks,
        rule=looks.rule,
    )


def _launch_rule(
    looks: LookSchedule, look: int | None, known: KnownSd | None, alpha: float
) -> PlannedLook:
    """One of the looks planned, at which the SD is known or the launches' own for all metrics."""
    if look is None:
        return PlannedLook(alpha=alpha, look=None, looks=looks.max_looks)
    ns = looks.looks
    df = [known.df if known is not None and k < OWN_LAUNCHES else k - 1 for k in ns]
    own = known is None or ns[-1] >= OWN_LAUNCHES
    tail = look_tails(alpha, [k / ns[-1] for k in ns], df if own else None)[look - 1]
    return PlannedLook(
        alpha=alpha, look=look, looks=looks.max_looks, tails=(tail, tail), advice=alpha
    )


def _tokens(launches: Sequence[AbLaunch]) -> float:
    """ln of the tokens a step, B over A: 0 unless the batches differ."""
    a, b = launches[0].batch_tokens
    return math.log(b / a)


def _speed(
    launches: Sequence[AbLaunch],
    found: LaunchSummary,
    rule: Rule,
    margin: Margin,
    noise_from: str,
) -> MetricResult:
    n, contrast = len(launches), found.contrast
    start = engine.draft(
        METRICS[SPEED],
        (n, n),
        (_tokens_per_s(launches, 0), _tokens_per_s(launches, 1)),
        margin=margin,
        reason=loader_reason(launches),
        notes=_launch_notes(launches, found),
        replicate="launch",
    )
    difference = Difference(
        contrast=Contrast(
            estimate=_tokens(launches) - contrast.estimate, se=contrast.se, df=contrast.df
        ),
        method="noise_model" if found.from_noise_model else "pooled",
        sd=found.launch_sd,
        run_sd=contrast.se * math.sqrt(n / 2),
    )
    source = noise_from if found.from_noise_model else _own_noise(noise_from, n)
    return engine.conclude(start, difference, rule, source)


def _own_noise(noise_model: str, n: int) -> str:
    given_up = noise_model and n < OWN_LAUNCHES
    return f"the launches' own: they differ by more than {noise_model}" if given_up else OWN_NOISE


def loader_reason(launches: Sequence[AbLaunch]) -> str | None:
    """Why these launches, and any that follow them, say nothing about the step; None if they do."""
    waited = max(share for one in launches for share in one.loader_wait_share)
    if waited <= LOADER_WAIT_SHARE:
        return None
    return (
        f"loader wait: {waited:.2%} of step time, beyond {LOADER_WAIT_SHARE:.1%}: "
        "the loader was measured and not the step"
    )


def _tokens_per_s(launches: Sequence[AbLaunch], side: int) -> float:
    logs = [math.log(one.batch_tokens[side] / one.step_s[side]) for one in launches]
    return math.exp(math.fsum(logs) / len(logs))


def _launch_notes(launches: Sequence[AbLaunch], found: LaunchSummary) -> list[str]:
    notes = [_form_note(launches, found)]
    if not math.isnan(found.window_sd):
        notes.append(f"SD of an A B B A inside a launch {found.window_sd:.2%}")
    if left_out := sum(one.dropped_windows for one in launches):
        notes.append(f"{left_out} windows left out, in which a side compiled")
    return notes


def _form_note(launches: Sequence[AbLaunch], found: LaunchSummary) -> str:
    """What took turns, and what the interval rests on."""
    n, windows = len(launches), sum(len(one.ratios) for one in launches)
    spread = "the noise model's SD" if found.from_noise_model else "their own spread"
    if launches[0].mode == "sequential":
        return (
            f"turns: whole processes one after the other, A B B A, warm-up steps thrown away; the "
            f"interval rests on {n} launches, one ratio each, and {spread}"
        )
    return (
        f"turns: both sides lived at once, A B B A of a few steps; the interval rests on {n} "
        f"launches and {spread}, with {windows} A B B A inside them"
    )


def screened(a: Sequence[Record], b: Sequence[Record]) -> list[MetricVerdict]:
    """A stored speed beside the candidate's: another session, so it is shown and decides nothing.

    The same code differs by more between sessions than most changes are worth.
    """
    values = [[record.metrics.get(SPEED) or 0.0 for record in side] for side in (a, b)]
    if not all(value > 0 for side in values for value in side):
        return []
    logs = [math.fsum(map(math.log, side)) / len(side) for side in values]
    start = engine.draft(
        METRICS[SPEED],
        (len(a), len(b)),
        (math.exp(logs[0]), math.exp(logs[1])),
        reason="another session: --base REF compares speeds side by side",
    )
    judged = msgspec.structs.replace(start, estimate=logs[1] - logs[0])
    return [MetricVerdict(judged=judged, evidence="replicates", look=1, looks=1)]


# --- memory, compilation, trajectories ------------------------------------------------------------


def of_launch_sides(
    launches: Sequence[AbLaunch], alpha: float, margins: Mapping[str, float]
) -> list[MetricVerdict]:
    """Peak memory and compile seconds of both sides, a value a launch."""
    sides = tuple([_as_run(one, side) for one in launches] for side in (0, 1))
    names = [
        name
        for name in (MEMORY, COMPILATION)
        if all(name in run.metrics for side in sides for run in side)
    ]
    if not names:
        return []
    given = {name: value for name, value in margins.items() if name in names}
    share = METRICS[MEMORY].margin.gpu_fraction
    by_rule = (
        share is not None
        and MEMORY in names
        and MEMORY not in given
        and all(one.on_gpu for one in launches)
    )
    if by_rule:
        given[MEMORY] = (share or 0.0) * sides[0][0].metrics[MEMORY]
    asked = CompareOptions(alpha=alpha, metrics=names, margins=given, replicate="launch")
    found = []
    for judged in compare(sides[0], sides[1], asked, NoiseModel([])).metrics:
        if judged.metric == MEMORY and by_rule:
            why = f"{share:.0%} of the base's, the default on a GPU"
            judged = msgspec.structs.replace(judged, margin_from=why)
        found.append(
            MetricVerdict(judged=engine.finite(judged), evidence="launches", look=1, looks=1)
        )
    return found


def _as_run(launch: AbLaunch, side: int) -> LoggedRun:
    pairs = {MEMORY: launch.peak_memory_bytes[side], COMPILATION: launch.compile_s[side]}
    return LoggedRun(
        source=f"launch {launch.number}, {'AB'[side]}",
        family="launches",
        metrics={name: value for name, value in pairs.items() if value is not None},
        steps=1,
    )


def of_trajectories(
    launch: AbLaunch, row: NoiseRow | None = None, alpha: float = 0.05
) -> MetricVerdict:
    """Are the losses of the first steps the same?

    On a CPU bit by bit. On a GPU sums may come in another order, and that carries the losses apart:
    by how much the noise model's `row` says, from launches of one code against itself. What has
    gone further at the last step than two such launches do is another computation; without a row a
    difference leaves the question open.
    """
    a, b = launch.losses
    parts = next((at for at, (x, y) in enumerate(zip(a, b, strict=True), 1) if x != y), None)
    reason = None if parts is None else f"the losses part at step {parts} of {len(a)}"
    outcome: Outcome = "pass" if parts is None else "regression"
    known = row.known if row and parts is not None and launch.on_gpu else None
    if parts is not None and launch.on_gpu:
        outcome, reason = _in_envelope(abs(a[-1] - b[-1]), known, alpha, f"{reason}")
    judged = MetricResult(
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
    return MetricVerdict(judged=judged, evidence="trajectory", look=1, looks=1)


def _in_envelope(
    apart: float, known: KnownSd | None, alpha: float, parted: str
) -> tuple[Outcome, str]:
    if known is None:
        without = "on a GPU they may, and the noise model has no envelope for it"
        hint = "a gate with --base . --claims refactor teaches it, or --claims ml"
        return "inconclusive", f"{parted}; {without}: {hint}"
    limit = t_quantile(1 - alpha / 2, known.df) * math.sqrt(2) * known.sd
    says = f"{parted} and end {apart:.2g} apart; launches of one code stay within {limit:.2g}"
    return ("pass" if apart <= limit else "regression"), says


def held_to(claim: Claim, verdict: MetricVerdict) -> MetricVerdict:
    """A claim of more speed passes only where even the worse end of the interval is faster."""
    judged = verdict.judged
    if claim != "systems" or judged.metric != SPEED or judged.outcome != "pass" or judged.improved:
        return verdict
    reason = "claimed faster, and the interval does not show it"
    changed = msgspec.structs.replace(judged, outcome="inconclusive", reason=reason)
    return msgspec.structs.replace(verdict, judged=changed)
