"""What replicates and launches say, metric by metric, at one look of several.

Quality is that of whole runs against a baseline's, through `judgement`; speed is the mean log ratio
of launches; memory and compilation come from the launches where there are any. A look is judged at
the error rate that O'Brien and Fleming leave it, or, where nobody planned how many there will be,
at that of the mixture test, so that all looks together keep the gate's. Pure; after `result`,
before `rounds`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from harness.compare.comparability import source_of_variance
from harness.compare.compare import CompareOptions, MetricResult, compare
from harness.compare.metrics import Margin
from harness.compare.noise_model import QUALITY, NoiseModel, NoiseRow
from harness.gate.ab_interleaved import LOADER_WAIT_SHARE, AbLaunch
from harness.gate.result import SPEED, TRAJECTORY, Claim, Looks, MetricVerdict, known_numbers
from harness.metrics import COMPARED
from harness.results.logs.from_store import logged_runs
from harness.results.logs.run_log import LoggedRun
from harness.results.record import Record
from harness.stats import mixture, power
from harness.stats.ab_noise import OWN_LAUNCHES, Launches, of_launches
from harness.stats.decision import Known, Outcome, decide
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast, detectable
from harness.stats.sequential import criticals, look_tails

MEMORY, COMPILATION = "peak_memory_bytes", "compile_s"
OWN_NOISE = "the launches' own"
MEMORY_MARGIN = 0.01
"""Relative, where an allocator counts: its count repeats, so this is far beyond its noise."""


def shares(n_a: int, looks: Sequence[int]) -> tuple[float, ...]:
    """The information of each look as a share of the last one's: `n_a` runs are there from the
    start, `looks` of the candidate's come one by one."""
    last = 1 / n_a + 1 / looks[-1]
    return tuple(last / (1 / n_a + 1 / n) for n in looks)


At = Callable[[float], list[MetricResult]]
"""Every metric, with limits that are good with probability one minus this."""


def of_replicates(
    a: Sequence[Record],
    b: Sequence[Record],
    looks: Looks,
    noise_model: NoiseModel,
    alpha: float,
    margins: Mapping[str, float],
) -> list[MetricVerdict]:
    """The quality of completed runs `b` against those of a baseline, at the look they reach.

    Raises LogError where they may not be compared.
    """
    look = looks.after(len(b))
    assert look is not None, f"{len(b)} runs are between the looks {looks.looks}"
    sides = logged_runs(a, "baseline"), logged_runs(b, "candidate")
    names = [name for name in QUALITY if all(name in run.metrics for run in (*sides[0], *sides[1]))]
    given = {name: value for name, value in margins.items() if name in names}

    def at(level: float) -> list[MetricResult]:
        return compare(
            *sides, CompareOptions(alpha=level, metrics=names, margins=given), noise_model
        ).metrics

    judged = _open(at, alpha) if looks.rule == "open" else _at_look(at, alpha, looks, len(a), look)
    return [
        MetricVerdict(
            judged=known_numbers(one),
            evidence="replicates",
            look=look,
            looks=looks.count,
            rule=looks.rule,
        )
        for one in judged
    ]


def _at_look(at: At, alpha: float, looks: Looks, n_a: int, look: int) -> list[MetricResult]:
    """At one of the looks planned: the boundary is another where the SD is the runs' own."""
    parts = shares(n_a, looks.looks)
    from_ledger = look_tails(alpha, parts)[look - 1]
    own = look_tails(alpha, parts, [n_a + n - 2 for n in looks.looks])[look - 1]
    judged = at(from_ledger)
    if own != from_ledger and any(one.noise not in ("noise_model", None) for one in judged):
        other = {one.metric: one for one in at(own)}
        judged = [one if one.noise == "noise_model" else other[one.metric] for one in judged]
    return judged


def _open(at: At, alpha: float) -> list[MetricResult]:
    """At any moment: each metric has its own limit, from its error and its margin."""
    levels = {one.metric: _open_tail(one, alpha) for one in at(alpha)}
    found = {}
    for level in set(levels.values()):
        found.update({one.metric: one for one in at(level) if levels[one.metric] == level})
    return [found[name] for name in levels]


def _open_tail(judged: MetricResult, alpha: float) -> float:
    """The level of the mixture test for a metric that was judged at `alpha` so far."""
    if judged.low is None or judged.high is None or not judged.df:
        return alpha
    se = (judged.high - judged.low) / (2 * t_quantile(1 - alpha, judged.df))
    spread = judged.margin or judged.sd or 0.0
    return mixture.tail(se, spread / 2, alpha) if spread else alpha


def quality_row(a: Sequence[Record], metric: str, noise_model: NoiseModel) -> NoiseRow | None:
    """The noise model's row for runs like the baseline's."""
    runs = logged_runs(a, "baseline")
    return noise_model.find(
        runs[0].scale, metric, runs[0].gpu, source_of_variance(metric, runs, runs)
    )


# --- speed ----------------------------------------------------------------------------------------


def of_launch_ratios(
    launches: Sequence[AbLaunch],
    looks: Looks,
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
    found = of_launches(ratios, known, keep=looks.rule == "open", borrowed=borrowed)
    if not found.from_ledger and len(launches) < OWN_LAUNCHES:
        known = None  # given up, because they differ by more than it allows
    harm = Contrast(
        estimate=found.contrast.estimate - _tokens(launches),
        se=found.contrast.se,
        df=found.contrast.df,
    )
    n = len(launches)
    look = looks.after(n)
    if looks.rule == "open":
        critical = t_quantile(1 - mixture.tail(harm.se, margin.value / 2, alpha), harm.df)
    else:
        critical = math.nan if look is None else _look_critical(looks.looks, look, known, alpha)
    judged = _speed(launches, found, harm, critical, margin, alpha, _origin(row, borrowed))
    return MetricVerdict(
        judged=known_numbers(judged),
        evidence="launches",
        look=sum(k < n for k in looks.looks) if look is None else look,
        looks=looks.count,
        rule=looks.rule,
    )


def _origin(row: NoiseRow | None, borrowed: bool) -> str:
    if row is None:
        return ""
    whose = ", of another recipe" if borrowed else ""
    return f"the {row.origin} noise model{whose}, {row.scale}, {row.gpu}, {row.source}"


def _look_critical(looks: Sequence[int], look: int, known: Known | None, alpha: float) -> float:
    """The critical value of one of the looks planned."""
    df = [known.df if known is not None and k < OWN_LAUNCHES else k - 1 for k in looks]
    own = known is None or looks[-1] >= OWN_LAUNCHES
    return criticals(alpha, df, [k / looks[-1] for k in looks], own=own)[look - 1]


def _tokens(launches: Sequence[AbLaunch]) -> float:
    """ln of the tokens a step, B over A: 0 unless the batches differ."""
    a, b = launches[0].batch_tokens
    return math.log(b / a)


def _speed(
    launches: Sequence[AbLaunch],
    found: Launches,
    harm: Contrast,
    critical: float,
    margin: Margin,
    alpha: float,
    noise_from: str,
) -> MetricResult:
    metric, n = COMPARED[SPEED], len(launches)
    verdict = decide(harm, margin.value, alpha, critical)
    reason = loader_reason(launches)
    limits = not math.isnan(verdict.lower)
    outcome = "inconclusive" if reason else verdict.outcome
    if not limits and reason is None:
        reason = "one launch, and no noise to go by" if not harm.df > 0 else "between two looks"
    more = None
    if outcome == "inconclusive" and limits:
        sd = harm.se * math.sqrt(n / 2)
        df = harm.df if found.from_ledger else None
        more = power.more_runs(harm.estimate, sd, margin.value, (n, n), alpha, df=df)
    return MetricResult(
        metric=SPEED,
        title=metric.title,
        unit=metric.unit,
        scale="log",
        harm_sign=metric.harm,
        n=(n, n),
        means=(_tokens_per_s(launches, 0), _tokens_per_s(launches, 1)),
        estimate=-harm.estimate,
        low=-verdict.upper if limits else None,
        high=-verdict.lower if limits else None,
        df=harm.df,
        sd=found.launch_sd,
        noise="noise_model" if found.from_ledger else "pooled",
        noise_from=noise_from if found.from_ledger else _own_noise(noise_from, n),
        margin=margin.value,
        margin_from=margin.why,
        minimum_detectable=detectable(critical, harm.df, harm.se, power.BETA) if limits else None,
        outcome=outcome,
        small_harm=outcome == "pass" and verdict.small_harm,
        more_runs=more,
        reason=reason,
        notes=_launch_notes(launches, found),
        replicate="launch",
    )


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


def _launch_notes(launches: Sequence[AbLaunch], found: Launches) -> list[str]:
    notes = [_form_note(launches, found)]
    if not math.isnan(found.window_sd):
        notes.append(f"SD of an A B B A inside a launch {found.window_sd:.2%}")
    if left_out := sum(one.left_out for one in launches):
        notes.append(f"{left_out} windows left out, in which a side compiled")
    return notes


def _form_note(launches: Sequence[AbLaunch], found: Launches) -> str:
    """What took turns, and what the interval rests on."""
    n, windows = len(launches), sum(len(one.ratios) for one in launches)
    spread = "the noise model's SD" if found.from_ledger else "their own spread"
    if launches[0].form == "sequential":
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
    metric = COMPARED[SPEED]
    judged = MetricResult(
        metric=SPEED,
        title=metric.title,
        unit=metric.unit,
        scale="log",
        harm_sign=metric.harm,
        n=(len(a), len(b)),
        means=(math.exp(logs[0]), math.exp(logs[1])),
        estimate=logs[1] - logs[0],
        reason="another session: --base REF compares speeds side by side",
    )
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
    by_rule = MEMORY in names and MEMORY not in given and all(one.on_gpu for one in launches)
    if by_rule:
        given[MEMORY] = MEMORY_MARGIN * sides[0][0].metrics[MEMORY]
    asked = CompareOptions(alpha=alpha, metrics=names, margins=given, replicate="launch")
    found = []
    for judged in compare(sides[0], sides[1], asked, NoiseModel([])).metrics:
        if judged.metric == MEMORY and by_rule:
            why = f"{MEMORY_MARGIN:.0%} of the base's, the default on a GPU"
            judged = msgspec.structs.replace(judged, margin_from=why)
        found.append(
            MetricVerdict(judged=known_numbers(judged), evidence="launches", look=1, looks=1)
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
        harm_sign=1,
        n=(len(a), len(b)),
        means=(a[-1], b[-1]),
        estimate=b[-1] - a[-1] if known else max(abs(x - y) for x, y in zip(a, b, strict=True)),
        sd=known.sd if known else None,
        df=known.df if known else None,
        noise="noise_model" if known else None,
        noise_from=_origin(row, borrowed=False) if known else "",
        outcome=outcome,
        reason=reason,
    )
    return MetricVerdict(judged=judged, evidence="trajectory", look=1, looks=1)


def _in_envelope(
    apart: float, known: Known | None, alpha: float, parted: str
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
    if claim != "systems" or judged.metric != SPEED or judged.outcome != "pass" or judged.better:
        return verdict
    reason = "claimed faster, and the interval does not show it"
    changed = msgspec.structs.replace(judged, outcome="inconclusive", reason=reason)
    return msgspec.structs.replace(verdict, judged=changed)
