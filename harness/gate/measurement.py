"""The measurement loop of a gate: takes launches and runs until every metric is settled.

Launches for speed and runs for quality are requested one by one from a source. Under the group
sequential rule the result is evaluated at the planned looks, under the always-valid rule after each
launch or run. Either way measurement stops once every metric is settled, once more data could not
settle it, or once there is no time for more. The source may be real trainers or a simulation: the
error rates in docs/operating-characteristics.md are measured with this code.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from harness.comparison.exchange import SHIPPED, equal_loss_time
from harness.comparison.margins import Margin, default_margin, stated_margin
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.result import TargetResult
from harness.comparison.targets import target_results
from harness.gate import metrics
from harness.gate.ab_interleaved import AbLaunch, AbMode
from harness.gate.history import NOISE_SOURCES
from harness.gate.request import GateRequest
from harness.gate.result import SPEED, TRAJECTORY, GateMetric, GatePlan, PartPlan
from harness.metrics import METRICS
from harness.results.logs.from_store import logged_runs
from harness.results.recipe import NoiseScope
from harness.results.record import Record
from harness.stats.spending import Reading


class MeasurementSource(Protocol):
    """Makes launches and runs, and keeps those made even where it has to stop early."""

    launches: list[AbLaunch]
    runs: list[Record]
    base_runs: list[Record]  # of a base ref; empty beside a baseline

    def launch(self) -> None:
        """Adds one launch of both sides."""

    def run(self) -> None:
        """Adds one run of the candidate, and of the base where no baseline has its runs."""

    def has_time(self, part: PartPlan) -> bool:
        """Whether one more launch or run of `part` fits into the budget."""


class MeasurementLoop:
    """Measures one gate on a bench; `metrics` are its results so far."""

    def __init__(
        self,
        request: GateRequest,
        bench: NoiseScope,
        noise_model: NoiseModel,
        source: MeasurementSource,
    ) -> None:
        self.request, self.bench = request, bench
        self.noise_model, self.source = noise_model, source
        self.metrics: list[GateMetric] = []
        self.quality_parts = 0

    def run(self, plan: GatePlan) -> None:
        """Measures all parts of the plan. Raises what the source raises."""
        self.quality_parts = sum(part.evidence == "replicates" for part in plan.parts)
        for part in plan.parts:
            if part.evidence == "launches":
                self._measure_speed(part)
            else:
                self._measure_quality(part)
        self._combine(plan)

    @property
    def share(self) -> float:
        """Of the error rate of a regression, for each group of metrics in which one counts at once.

        The losses share the rate with memory and compilation, where those are decided, and with the
        speed; a slowdown that needs two sessions adds nothing.
        """
        launches = self.source.launches
        costs = metrics.decides_costs(launches, self.request.margins)
        slowdown = bool(launches) and not self.request.confirm
        return 1 / max(1, self.quality_parts + costs + slowdown)

    @property
    def targets(self) -> list[TargetResult]:
        """The test of each target, with the runs of each side so far."""
        sides = logged_runs(self._runs_a, "A"), logged_runs(self.source.runs, "B")
        wanted = [(METRICS[name], value) for name, value in self.request.targets.items()]
        return target_results(sides, wanted, self.request.target_p)

    @property
    def _runs_a(self) -> Sequence[Record]:
        baseline = self.request.baseline
        return baseline.now.records if baseline else self.source.base_runs

    def _combine(self, plan: GatePlan) -> None:
        """Adds loss and speed in one figure, where the exchange rate is known."""
        rate = self.request.exchange or SHIPPED.get(self.bench.scale or "")
        if rate is not None:
            tail = max(self._reading(part).rate for part in plan.parts)
            found = equal_loss_time([one.result for one in self.metrics], rate, tail)
            if found is not None:
                self.metrics.append(
                    GateMetric(result=found, evidence="replicates", look=1, looks=1)
                )

    def _measure_speed(self, part: PartPlan) -> None:
        request, launches, result = self.request, self.source.launches, None
        while len(launches) < part.max_n and self.source.has_time(part):
            self.source.launch()
            if len(launches) == 1 and request.claim == "refactor":
                self._compare_trajectories(launches[0])
            result = self._speed_result(part)
            settled = result.outcome != "inconclusive" and part.look_after(len(launches))
            if settled or metrics.loader_reason(launches):
                break
        if result is not None:
            self.metrics.append(metrics.require_speed_up(request.claim, result))
            reading = self._reading(part)
            self.metrics += metrics.compare_launch_costs(
                launches, reading, request.margins, self.share
            )

    def _reading(self, part: PartPlan) -> Reading:
        return Reading(alpha=self.request.alpha, seen=part.seen)

    def _compare_trajectories(self, launch: AbLaunch) -> None:
        row = self.noise_model.find(
            self.bench.scale, TRAJECTORY, self.bench.device, "nondeterminism"
        )
        self.metrics.append(metrics.compare_trajectories(launch, row, self.request.alpha))

    def _speed_result(self, part: PartPlan) -> GateMetric:
        row = launch_row(self.bench, self.noise_model, part.ab_mode or "interleaved")
        result = metrics.compare_speed(
            self.source.launches,
            part,
            row,
            speed_margin(self.request),
            self._reading(part),
            borrowed=row is not None and row.scale != self.bench.scale,
            share=1.0 if self.request.confirm else self.share,
        )
        # the always-valid rule may continue until a claimed speed-up is shown; looks are planned
        # to detect harm
        if part.rule == "always_valid":
            return metrics.require_speed_up(self.request.claim, result)
        return result

    def _measure_quality(self, part: PartPlan) -> None:
        runs_a, runs = self._runs_a, self.source.runs
        reading, margins = self._reading(part), self.request.margins
        results: dict[str, GateMetric] = {}
        while len(runs) < part.max_n and self.source.has_time(part):
            self.source.run()
            if part.look_after(len(runs)) is None:
                continue
            latest = metrics.compare_quality(
                runs_a, runs, part, self.noise_model, reading, margins, self.share, part.both
            )
            results = {**{one.result.metric: one for one in latest}, **_settled(results)}
            if len(_settled(results)) == sum(one.outcome is not None for one in latest):
                break
        self.metrics += results.values()
        if runs and not self.source.launches:
            self.metrics += metrics.informational_speed(runs_a, runs)


def _settled(results: Mapping[str, GateMetric]) -> dict[str, GateMetric]:
    """The metrics settled at an earlier look: a boundary that was crossed stays crossed."""
    return {name: one for name, one in results.items() if one.outcome in ("pass", "regression")}


def launch_row(
    bench: NoiseScope, noise_model: NoiseModel, mode: AbMode = "interleaved"
) -> NoiseRow | None:
    """The noise model's row for launches on a bench, in one mode."""
    return noise_model.of_launches(SPEED, bench, NOISE_SOURCES[mode])


def speed_margin(request: GateRequest) -> Margin:
    """The margin of tokens/s: from --margin, else the default."""
    if SPEED in request.margins:
        return stated_margin(SPEED, request.margins[SPEED])
    margin = default_margin(SPEED, None, False)
    assert margin is not None, "a speed has a default margin"
    return margin
