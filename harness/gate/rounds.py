"""How long a gate goes on buying, and what it says of what it bought.

Launches for the speed, runs for the quality, piece by piece from whoever makes them. Under the rule
of looks a verdict is sought after as many pieces as were planned, under the open one after each;
either way nothing is bought once every metric is settled, once no further piece could settle it,
or once there is no time for another. What makes the pieces, real trainers or a simulation, is not
known here: the error rates in docs/ come from this very code. After `planning`, before `gate`.
"""

from collections.abc import Mapping
from typing import Protocol

from harness.compare.metrics import Margin, default_margin, given
from harness.compare.noise_model import NoiseModel, NoiseRow
from harness.gate import metrics
from harness.gate.ab_interleaved import AbLaunch, Form
from harness.gate.history import SOURCES
from harness.gate.result import SPEED, TRAJECTORY, GatePlan, MetricVerdict, PartPlan
from harness.gate.sides import GateRequest
from harness.results.recipe import NoiseScope
from harness.results.record import Record


class Source(Protocol):
    """Makes evidence, and keeps it even where it has to break off."""

    launches: list[AbLaunch]
    runs: list[Record]

    def launch(self) -> None:
        """One more launch of both sides."""

    def run(self) -> None:
        """One more run of the candidate."""

    def has_time(self, part: PartPlan) -> bool:
        """Whether another one of `part` fits into the budget."""


class Rounds:
    """One gate's buying on a bench; `metrics` are its verdicts so far."""

    def __init__(
        self, asked: GateRequest, bench: NoiseScope, noise_model: NoiseModel, source: Source
    ) -> None:
        self.asked, self.bench, self.noise_model, self.source = asked, bench, noise_model, source
        self.metrics: list[MetricVerdict] = []

    def take(self, planned: GatePlan) -> None:
        """All parts. Lets through what the source raises."""
        for part in planned.parts:
            if part.evidence == "launches":
                self._speed(part)
            else:
                self._quality(part)

    def _speed(self, part: PartPlan) -> None:
        launches, verdict = self.source.launches, None
        while len(launches) < part.most and self.source.has_time(part):
            self.source.launch()
            if len(launches) == 1 and self.asked.claim == "refactor":
                known = self.noise_model.find(
                    self.bench.scale, TRAJECTORY, self.bench.device, "nondeterminism"
                )
                self.metrics.append(metrics.of_trajectories(launches[0], known, self.asked.alpha))
            verdict = self._judged_speed(part)
            if _settled(verdict, part, len(launches)) or metrics.loader_reason(launches):
                break
        if verdict is not None:
            asked = self.asked
            self.metrics.append(metrics.held_to(asked.claim, verdict))
            self.metrics += metrics.of_launch_sides(launches, asked.alpha, asked.margins)

    def _judged_speed(self, part: PartPlan) -> MetricVerdict:
        row = launch_row(self.bench, self.noise_model, part.turns or "interleaved")
        verdict = metrics.of_launch_ratios(
            self.source.launches,
            part,
            row,
            speed_margin(self.asked),
            self.asked.alpha,
            borrowed=row is not None and row.scale != self.bench.scale,
        )
        # an open gate may go on until a claim of more speed is shown; looks were planned for harm
        return metrics.held_to(self.asked.claim, verdict) if part.rule == "open" else verdict

    def _quality(self, part: PartPlan) -> None:
        assert self.asked.baseline is not None, "quality is compared with a baseline"
        stored, runs = self.asked.baseline.now.records, self.source.runs
        found: dict[str, MetricVerdict] = {}
        while len(runs) < part.most and self.source.has_time(part):
            self.source.run()
            if part.after(len(runs)) is None:
                continue
            latest = metrics.of_replicates(
                stored, runs, part, self.noise_model, self.asked.alpha, self.asked.margins
            )
            found = {**{one.judged.metric: one for one in latest}, **_decided(found)}
            if len(_decided(found)) == sum(one.outcome is not None for one in latest):
                break
        self.metrics += found.values()
        if runs and not self.source.launches:
            self.metrics += metrics.screened(stored, runs)


def _settled(verdict: MetricVerdict, part: PartPlan, n: int) -> bool:
    return part.after(n) is not None and verdict.outcome != "inconclusive"


def _decided(found: Mapping[str, MetricVerdict]) -> dict[str, MetricVerdict]:
    """The metrics that a look has settled: a boundary that was crossed stays crossed."""
    return {name: one for name, one in found.items() if one.outcome in ("pass", "regression")}


def launch_row(
    bench: NoiseScope, noise_model: NoiseModel, form: Form = "interleaved"
) -> NoiseRow | None:
    """The noise model's row for launches on a bench, in one form."""
    return noise_model.of_launches(SPEED, bench, SOURCES[form])


def speed_margin(asked: GateRequest) -> Margin:
    """The margin of the speed: the one that was given, or the default."""
    if SPEED in asked.margins:
        return given(SPEED, asked.margins[SPEED])
    margin = default_margin(SPEED, None, False)
    assert margin is not None, "a speed has a default margin"
    return margin
