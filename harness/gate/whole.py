"""From the verdicts on metrics to that of the gate: what history adds, and the worst of them.

Pure; after `history`, before `gate`.
"""

from collections.abc import Sequence

import msgspec

from harness.gate import history
from harness.gate.result import SPEED, GateOutcome, GateResult, MetricVerdict, worst


def concluded(
    bare: GateResult,
    metrics: Sequence[MetricVerdict],
    stored: Sequence[GateResult],
    *,
    once: bool = False,
    ended: str | None = None,
) -> GateResult:
    """`bare` with its verdict. `stored`: earlier gates; `ended`: why it could not be measured."""
    judged = [_in_history(one, bare, stored, once) for one in metrics]
    outcome, why = overall(judged, ended, _unjudged(bare, judged))
    return msgspec.structs.replace(bare, metrics=judged, outcome=outcome, reason=why)


def _in_history(
    verdict: MetricVerdict, now: GateResult, stored: Sequence[GateResult], once: bool
) -> MetricVerdict:
    if verdict.judged.metric == SPEED and verdict.evidence == "launches":
        earlier = [result for result in stored if result.key == now.key]
        verdict = history.confirmed(verdict, now, earlier, once)
    return history.with_small_harms(verdict, now, stored)


def _unjudged(bare: GateResult, metrics: Sequence[MetricVerdict]) -> list[str]:
    """The metrics that the plan was made for and that have no verdict."""
    judged = {one.evidence for one in metrics if one.outcome is not None}
    return [
        part.metric
        for part in (bare.plan.parts if bare.plan else [])
        if part.evidence not in judged
    ]


def overall(
    metrics: Sequence[MetricVerdict], ended: str | None, unjudged: Sequence[str] = ()
) -> tuple[GateOutcome, str]:
    """The worst metric decides; `ended` says why the candidate could not be measured to the end.

    `unjudged`: what was planned and got no verdict, so that the rest alone cannot pass.
    """
    if ended is not None:
        return "regression", ended
    outcome = worst([one.outcome for one in metrics if one.outcome is not None])
    named = [one for one in metrics if one.outcome == outcome]
    titles = " and ".join(one.judged.title for one in named)
    if outcome == "regression":
        mark = " (unconfirmed)" if any(one.unconfirmed for one in named) else ""
        return outcome, f"worse in {titles}{mark}"
    if outcome == "inconclusive":
        if not named:
            return outcome, "nothing could be judged: no metric has both a margin and an interval"
        unconfirmed = [one for one in named if one.unconfirmed]
        if unconfirmed:
            return outcome, "unconfirmed: slower once; fresh launches later have to show it too"
        return outcome, f"open in {titles}"
    if unjudged:
        return "inconclusive", f"no verdict on {' and '.join(unjudged)}; no harm in {titles}"
    return outcome, f"no harm beyond the margin in {titles}"
