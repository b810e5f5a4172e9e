"""Did this change make anything worse? One gate, from two names to a verdict a metric.

A candidate's quality is compared with a stored baseline, run by run; its speed with that of another
ref or configuration, both on this host at the same time. More runs and launches are bought, look by
look, while the verdict is open and the plan has room. A candidate that crashes or diverges is a
regression with its reason; what is no fault of the candidate ends in an error, never in a verdict.

After `gate_plan` and `gate_history`; prints nothing.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from harness import ab, baseline, gate_history, gate_judge, gate_launcher, gate_plan, replicates
from harness.baseline import Baseline
from harness.errors import TrainerError
from harness.gate_launcher import Launcher
from harness.gate_result import (
    SPEED,
    GateOutcome,
    GatePlan,
    GateResult,
    MetricVerdict,
    PartPlan,
    worst,
)
from harness.gate_sides import Asked, Prepared
from harness.ledger import Ledger, device, is_full_scale, recipe_scale
from harness.margins import Margin, default_margin, given
from harness.pace import PaceFailed, PaceStopped
from harness.record import Record
from harness.replicates import name_of
from harness.run import Stop, boot_id
from harness.store import Store

NO_MODULE = "No module named"  # Python's words: the code was never tried
CONDEMNING = {"failed": "crashed", "diverged": "diverged", "out_of_memory": "ran out of memory"}


class _Ended(Exception):
    """The candidate cannot be measured further, which is the verdict."""

    def __init__(self, reason: str, log: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.log = reason, log


# --- before anything is spent ---------------------------------------------------------------------


def plan(prepared: Prepared, ledger: Ledger, stored: Sequence[GateResult]) -> GatePlan:
    """What the gate will take and be able to say. The speed goes first, the runs get the rest."""
    asked, parts = prepared.asked, []
    left_s = asked.budget_s
    if prepared.a is not None:
        unit_s = gate_launcher.launch_seconds(prepared, stored)
        row = _launch_row(prepared, ledger)
        part = gate_plan.speed_plan(row, _speed_margin(asked), unit_s, left_s, asked.alpha)
        part = gate_plan.with_turns(part, prepared.turns)
        parts.append(part)
        if left_s is not None:
            left_s = max(0.0, left_s - (part.seconds or 0.0) if part.looks else left_s)
    if prepared.compares_quality and asked.baseline is not None:
        parts.append(_quality_part(prepared, asked.baseline, ledger, left_s))
    return GatePlan(
        parts=parts,
        budget_s=asked.budget_s,
        alpha=asked.alpha,
        price_usd_per_hour=asked.price_usd_per_hour,
        gpus=asked.baseline.gpus if asked.baseline else 1,
    )


def _quality_part(
    prepared: Prepared, stored: Baseline, ledger: Ledger, left_s: float | None
) -> PartPlan:
    records = stored.now.records
    return gate_plan.quality_plan(
        records,
        ledger,
        prepared.asked.margins,
        is_full_scale(records[0]),
        math.fsum(record.wall_s for record in records) / len(records),
        left_s,
        prepared.asked.alpha,
    )


def _speed_margin(asked: Asked) -> Margin:
    if SPEED in asked.margins:
        return given(SPEED, asked.margins[SPEED])
    margin = default_margin(SPEED, None, False)
    assert margin is not None
    return margin


def _launch_row(prepared: Prepared, ledger: Ledger) -> Any:
    stored = prepared.asked.baseline
    if stored is None:
        return None
    first = stored.now.records[0]
    source = gate_history.SOURCES[prepared.form]
    return ledger.find(recipe_scale(first), SPEED, device(first.environment), source)


# --- the gate -------------------------------------------------------------------------------------


class Gate:
    """One gate under way."""

    def __init__(
        self,
        prepared: Prepared,
        planned: GatePlan,
        store: Store,
        ledger: Ledger,
        stop: Stop,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.prepared, self.planned, self.store = prepared, planned, store
        self.ledger, self.stop, self.say = ledger, stop, say
        self.number, self.folder = gate_history.begin(store, prepared.key)
        self.started_at = time.time()
        self.launcher: Launcher | None = None
        self.launches: list[ab.Launch] = []
        self.runs: list[Record] = []
        self.metrics: list[MetricVerdict] = []
        self.notes = list(prepared.notes)

    def execute(self) -> GateResult:
        """Runs it to its end and stores the result. Raises HarnessError and PaceStopped."""
        reason, log = None, None
        try:
            self._carry_out()
        except _Ended as ended:
            reason, log = ended.reason, ended.log
        result = self._result(reason, log)
        gate_history.save(self.store, result)
        return result

    def _carry_out(self) -> None:
        try:
            self._parts()
        except ab.NoRoom as error:
            self._one_after_the_other(error)
            self._parts()

    def _parts(self) -> None:
        for part in self.planned.parts:
            if part.evidence == "launches":
                self._speed(part)
            else:
                self._quality(part)

    # speed

    def _one_after_the_other(self, error: ab.NoRoom) -> None:
        """Plans anew: nothing was measured yet, and the form was the harness's to choose.

        Raises the error where a form was asked for.
        """
        if self.launches:
            raise error
        self.prepared, self.launcher = gate_launcher.in_relay(self.prepared, error), None
        self.planned = plan(self.prepared, self.ledger, gate_history.load(self.store))
        part = next(part for part in self.planned.parts if part.evidence == "launches")
        each = "" if part.unit_s is None else f" of {part.unit_s:.0f} s"
        self.notes.append(f"planned anew, up to {part.n_b} launches{each}; {part.notes[0]}")
        self.say(self.notes[-1])

    def _speed(self, part: PartPlan) -> None:
        """Launches until a look decides or the plan ends."""
        assert self.prepared.a is not None
        verdict = None
        for number in range(1, part.n_b + 1):
            if self._too_late(self._launch_s(part), f"launch {number} of {part.n_b}"):
                break
            self.launches.append(self._launch(number))
            if number == 1 and self.prepared.asked.claim == "refactor":
                self.metrics.append(gate_judge.of_trajectories(self.launches[0]))
            verdict = self._judged_speed(part)
            if number in part.looks and verdict.outcome != "inconclusive":
                break
        if verdict is not None:
            self.metrics.append(gate_judge.held_to(self.prepared.asked.claim, verdict))
            alpha, margins = self.prepared.asked.alpha, self.prepared.asked.margins
            self.metrics += gate_judge.of_launch_sides(self.launches, alpha, margins)

    def _launch(self, number: int) -> ab.Launch:
        self.launcher = self.launcher or Launcher(self.prepared, self.folder, self.stop)
        try:
            made = self.launcher.launch(number)
        except ab.Trouble as trouble:
            raise _verdict_on(trouble.failure, of_b=trouble.of_b) from trouble
        self.say(f"launch {number}: {_percent(made)} in {made.seconds:.0f} s")
        return made

    def _judged_speed(self, part: PartPlan) -> MetricVerdict:
        row = _launch_row(self.prepared, self.ledger)
        source = f"the {row.origin} ledger, {row.scale}, {row.gpu}, {row.source}" if row else ""
        return gate_judge.of_launch_ratios(
            self.launches,
            part.looks,
            row.known if row else None,
            _speed_margin(self.prepared.asked),
            self.prepared.asked.alpha,
            source,
        )

    def _launch_s(self, part: PartPlan) -> float:
        if self.launches:
            return max(one.seconds for one in self.launches)
        return part.unit_s or 0.0

    # quality

    def _quality(self, part: PartPlan) -> None:
        """Replicates until a look decides or the plan ends."""
        stored = self.prepared.asked.baseline
        assert stored is not None
        found: dict[str, MetricVerdict] = {}
        for number in range(1, part.n_b + 1):
            if self._too_late(self._run_s(part), f"run {number} of {part.n_b}"):
                break
            self.runs.append(self._run(stored, number - 1))
            if number in part.looks:
                latest = gate_judge.of_replicates(
                    stored.now.records,
                    self.runs,
                    part.looks,
                    self.ledger,
                    self.prepared.asked.alpha,
                    self.prepared.asked.margins,
                )
                found = {**{one.judged.metric: one for one in latest}, **_decided(found)}
                if len(_decided(found)) == sum(one.outcome is not None for one in latest):
                    break
        self.metrics += found.values()
        if self.runs and not self.launches:
            self.metrics += gate_judge.screened(stored.now.records, self.runs)

    def _run(self, stored: Baseline, index: int) -> Record:
        seed = _seed_at(stored.now.seeds, index)
        spent = {name_of(r) for entry in stored.entries for r in entry.records}
        spent |= {name_of(record) for record in self.runs}
        made = replicates.one(
            self.store,
            self.prepared.b.trainer,
            self.prepared.b.recipe.job(seed),
            self.stop,
            timeout_s=self.prepared.asked.run_limit_s,
            spent=spent,
        )
        if self.stop:
            raise PaceStopped
        _refuse_failed(made, stored)
        baseline.refuse_other_machine(stored, made)
        self.say(f"run {index + 1}, seed {seed}: {_measured(made)} in {made.wall_s:.0f} s")
        return made

    def _run_s(self, part: PartPlan) -> float:
        return max((record.wall_s for record in self.runs), default=part.unit_s or 0.0)

    def _too_late(self, next_s: float, what: str) -> bool:
        budget_s = self.planned.budget_s
        if budget_s is None or time.time() - self.started_at + next_s <= budget_s:
            return False
        self.notes.append(f"the budget of {budget_s / 60:g} minutes ended before {what}")
        return True

    # the whole

    def _result(self, reason: str | None, log: str | None) -> GateResult:
        asked, stored = self.prepared.asked, self.prepared.asked.baseline
        seen = self.runs[0] if self.runs else stored.now.records[0] if stored else None
        bare = GateResult(
            key=self.prepared.key,
            number=self.number,
            outcome="inconclusive",
            reason="",
            alpha=asked.alpha,
            claim=asked.claim,
            a=self.prepared.reference,
            b=self.prepared.b.subject,
            metrics=[],
            plan=self.planned,
            baseline_hash=stored.now.hash if stored else None,
            candidates=[name_of(record) for record in self.runs],
            notes=self.notes,
            log_tail=log,
            launches=self.launches,
            scale=recipe_scale(seen) if seen else None,
            device=self._device(seen),
            environment_id=self._environment_id(),
            boot_id=boot_id(),
            started_at=self.started_at,
            ended_at=time.time(),
        )
        metrics = [self._in_history(verdict, bare) for verdict in self.metrics]
        outcome, why = overall(metrics, reason, self._unjudged(metrics))
        return msgspec.structs.replace(bare, metrics=metrics, outcome=outcome, reason=why)

    def _unjudged(self, metrics: Sequence[MetricVerdict]) -> list[str]:
        """The metrics that the plan was made for and that have no verdict."""
        judged = {one.evidence for one in metrics if one.outcome is not None}
        return [part.metric for part in self.planned.parts if part.evidence not in judged]

    def _in_history(self, verdict: MetricVerdict, now: GateResult) -> MetricVerdict:
        if verdict.judged.metric == SPEED and verdict.evidence == "launches":
            earlier = gate_history.load(self.store, now.key)
            verdict = gate_history.confirmed(verdict, now, earlier, self.prepared.asked.once)
        return gate_history.with_small_harms(verdict, now, gate_history.load(self.store))

    def _device(self, seen: Record | None) -> str | None:
        if seen is not None:
            return device(seen.environment)
        return self.launches[0].device if self.launches else None

    def _environment_id(self) -> str:
        if self.launches:
            return self.launches[0].environment_id
        return self.runs[0].environment_id if self.runs else ""


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


def _decided(found: Mapping[str, MetricVerdict]) -> dict[str, MetricVerdict]:
    """The metrics that a look has settled: a boundary that was crossed stays crossed."""
    return {name: one for name, one in found.items() if one.outcome in ("pass", "regression")}


def _verdict_on(failure: PaceFailed, *, of_b: bool) -> Exception:
    """B's own fault is a verdict; what A shares, came from outside or was never tried is none."""
    log = failure.log or ""
    own = of_b and not failure.killed and NO_MODULE not in failure.reason + log
    if own and failure.status in CONDEMNING:
        what = CONDEMNING[failure.status]
        return _Ended(f"the candidate {what} while its speed was measured: {failure.reason}", log)
    return TrainerError(
        path=f"side {failure.side}",
        expected="a trainer that steps when it is told",
        got=failure.reason,
        remedy=_last_line(log) or "Its log stands in the gate's folder of the store.",
    )


def _refuse_failed(made: Record, stored: Baseline) -> None:
    """Raises _Ended where a run condemns the candidate, TrainerError where it says nothing."""
    reason = made.reason or "it gave no reason"
    if made.status == "completed":
        lost = [
            name
            for name in ("val_bpb", "val_loss")
            if stored.now.records[0].metrics.get(name) is not None
            and made.metrics.get(name) is None
        ]
        if lost:
            raise _Ended(
                f"the candidate has no {' and no '.join(lost)} at seed {made.seed}: {reason}"
            )
        return
    if made.status in ("diverged", "out_of_memory"):
        what = "diverged" if made.status == "diverged" else "ran out of memory"
        raise _Ended(f"the candidate {what} at seed {made.seed}: {reason}", made.log_tail)
    own = made.status == "failed" and made.signal is None
    if own and NO_MODULE not in reason + (made.log_tail or ""):
        raise _Ended(f"the candidate crashed at seed {made.seed}: {reason}", made.log_tail)
    raise TrainerError(
        path=f"seed {made.seed}",
        expected="a run of the candidate",
        got=reason,
        remedy=made.remedy or "Start the gate again; whole runs are kept.",
    )


def _seed_at(seeds: Sequence[int], index: int) -> int:
    """The baseline's seeds in their order, then new ones; one seed alone is held."""
    if index < len(seeds):
        return seeds[index]
    return (
        seeds[0] if len(seeds) > 1 and len(set(seeds)) == 1 else max(seeds) + 1 + index - len(seeds)
    )


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _percent(made: ab.Launch) -> str:
    mean = math.fsum(made.ratios) / len(made.ratios)
    return f"step time {100 * math.expm1(mean):+.2f} %"


def _measured(made: Record) -> str:
    names = ("val_bpb", "val_loss")
    return ", ".join(f"{name} {made.metrics[name]:.5f}" for name in names if made.metrics.get(name))
