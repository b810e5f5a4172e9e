"""Runs one planned gate: launches both sides, runs the candidate, and stores the result.

Quality is compared with a stored baseline, run by run, or with runs of the base ref, which are
interleaved with the candidate's; speed with another ref or configuration in an A/B on this host.
`measurement` decides how much of either is needed, this module makes it. A
candidate that crashes or diverges is a regression with its reason. A failure that is not the
candidate's fault raises an error and never decides the outcome. Progress goes to a listener.
"""

import math
import time
from collections.abc import Sequence

from harness.comparison import core_by_example
from harness.comparison.core import PairedCore
from harness.comparison.noise_model import NoiseModel
from harness.comparison.result import TargetResult
from harness.errors import TrainerError
from harness.format import duration
from harness.gate import ab_launcher, baseline, history
from harness.gate.ab_interleaved import AbLaunch, NotEnoughMemory, SideFailed
from harness.gate.ab_launcher import AbLauncher
from harness.gate.evaluation import BaseEvaluator
from harness.gate.measurement import MeasurementLoop
from harness.gate.planning import plan_gate
from harness.gate.result import GatePlan, GateResult, PartPlan
from harness.gate.sides import PreparedGate
from harness.metrics import CORE_SCORES, LOSSES, METRICS, QUALITY
from harness.results.recipe import device_name
from harness.results.record import Record, attempt_name
from harness.results.run_files import boot_id
from harness.results.store import Store
from harness.runner import replicates
from harness.runner.process import Stop
from harness.runner.stepper import StepperFailed, StepperStopped

NO_MODULE = "No module named"  # Python's message: the candidate's code was not reached
CANDIDATE_FAULTS = {
    "failed": "crashed",
    "diverged": "diverged",
    "out_of_memory": "ran out of memory",
}


class GateListener:
    """Receives the progress of a gate. This one ignores it: subclass it to print or record."""

    def planned(self, plan: GatePlan) -> None:
        """The plan, before anything runs."""

    def message(self, text: str) -> None:
        """One line of progress."""


class CandidateFailed(Exception):
    """The candidate cannot be measured any further, which is a regression."""

    def __init__(self, reason: str, log: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.log = reason, log


class GateExecution:
    """One gate while it runs; the source of launches and runs for its MeasurementLoop."""

    def __init__(
        self,
        prepared: PreparedGate,
        plan: GatePlan,
        store: Store,
        noise_model: NoiseModel,
        stop: Stop,
        listener: GateListener | None = None,
    ) -> None:
        self.prepared, self.plan, self.store = prepared, plan, store
        self.noise_model, self.stop = noise_model, stop
        self.listener = listener or GateListener()
        self.number, self.folder = history.create(store, prepared.key)
        self.started_at = time.time()
        self.launcher: AbLauncher | None = None
        self.launches: list[AbLaunch] = []
        self.runs: list[Record] = []
        self.base_runs: list[Record] = []
        self.notes = list(prepared.notes)
        self.evaluator: BaseEvaluator | None = None
        if prepared.evaluator is not None and prepared.compares_quality:
            timeout_s = prepared.request.run_timeout_s
            self.evaluator = BaseEvaluator(prepared.evaluator, store, timeout_s)
            self.notes.append("losses: measured by the base's code on final checkpoints")
        if prepared.request.sandbox:
            self.notes.append("trainers ran in a sandbox")

    def execute(self) -> GateResult:
        """Measures until the plan ends, and stores the result.

        Raises HarnessError, and StepperStopped where the user asked to stop.
        """
        request, failure = self.prepared.request, None
        loop = MeasurementLoop(request, self.prepared.bench, self.noise_model, self)
        try:
            self._measure(loop)
        except CandidateFailed as error:
            failure = error
        result = history.conclude(
            self._without_metrics(loop.targets, failure.log if failure else None),
            loop.metrics,
            history.load(self.store),
            confirm=request.confirm,
            aborted=failure.reason if failure else None,
            stated=tuple(request.margins),
        )
        history.save(self.store, result)
        return result

    def _measure(self, loop: MeasurementLoop) -> None:
        try:
            loop.run(self.plan)
        except NotEnoughMemory as error:
            self._switch_to_sequential(error)
            loop.run(self.plan)

    def _switch_to_sequential(self, error: NotEnoughMemory) -> None:
        """Plans the gate again in sequential mode, as long as nothing has been measured.

        Raises the error where --ab fixed the mode.
        """
        if self.launches:
            raise error
        self.prepared = ab_launcher.in_sequential_mode(self.prepared, error)
        self.launcher = None
        self.plan = plan_gate(
            self.prepared, self.noise_model, history.load(self.store), self.store.records()
        )
        part = next(part for part in self.plan.parts if part.evidence == "launches")
        each = "" if part.unit_s is None else f" of {part.unit_s:.0f} s"
        limit = "" if part.rule == "always_valid" else f"up to {part.n_b} " if part.n_b else "no "
        self.notes.append(f"planned again: {limit}launches{each}; {part.notes[0]}")
        self.listener.message(self.notes[-1])

    # the MeasurementSource

    def launch(self) -> None:
        """Makes one A/B launch."""
        self.launcher = self.launcher or AbLauncher(self.prepared, self.folder, self.stop)
        number = len(self.launches) + 1
        try:
            launch = self.launcher.launch(number)
        except SideFailed as error:
            raise _side_failure(error.failure, by_candidate=error.by_candidate) from error
        self.launches.append(launch)
        mean = math.fsum(launch.ratios) / len(launch.ratios)
        change = f"step time {100 * math.expm1(mean):+.2f} %"
        self.listener.message(f"launch {number}: {change} in {launch.seconds:.0f} s")

    def run(self) -> None:
        """Runs the candidate at the next seed of the baseline; without one, both refs at the next
        seed, in the order A B B A."""
        stored = self.prepared.request.baseline
        if stored is not None:
            self._run_side("B", _seed_at(stored.now.seeds, len(self.runs)))
            return
        number = len(self.runs)
        for name in "BA" if number % 2 else "AB":  # a fault of both is the base's first
            self._run_side(name, number + 1)

    def _run_side(self, name: str, seed: int) -> None:
        request = self.prepared.request
        side = self.prepared.a if name == "A" else self.prepared.b
        assert side is not None, "a gate without a baseline has a base"
        job, consumed = side.recipe.job(seed), self._consumed()
        if self.evaluator is not None:
            job = self.evaluator.keeping_checkpoint(job)
            consumed |= self.evaluator.unusable(job.plan_id)
        record = replicates.run_or_reuse(
            self.store,
            side.trainer,
            job,
            self.stop,
            timeout_s=request.run_timeout_s,
            consumed=consumed,
        )
        if self.stop:
            raise StepperStopped
        _check_run(record, self._reference(), by_candidate=name == "B")
        if request.baseline is not None:
            baseline.check_same_hardware(request.baseline, record)
        if self.evaluator is not None:
            trusted = side if name == "A" else self.evaluator.side
            record, note = self.evaluator.evaluated(record, trusted.recipe.job(seed).config)
            self.notes += [note] if note else []
        (self.runs if name == "B" else self.base_runs).append(record)
        losses = [
            f"{name} {record.metrics[name]:.5f}" for name in LOSSES if record.metrics.get(name)
        ]
        what = "run" if request.baseline is not None else f"{name}, run"
        number = len(self.runs if name == "B" else self.base_runs)
        text = f"{what} {number}, seed {seed}: {', '.join(losses)} in {record.wall_s:.0f} s"
        self.listener.message(text)

    def _consumed(self) -> set[str]:
        """The attempts that are replicates already."""
        stored = self.prepared.request.baseline
        entries = stored.entries if stored is not None else []
        used = [*self.runs, *self.base_runs, *(one for entry in entries for one in entry.records)]
        return {attempt_name(record) for record in used}

    def _reference(self) -> Record | None:
        """A run of side A; None before there is one."""
        stored = self.prepared.request.baseline
        records = stored.now.records if stored is not None else self.base_runs
        return records[0] if records else None

    def has_time(self, part: PartPlan) -> bool:
        """Whether one more, as long as the longest so far, ends before the time of the part."""
        if part.evidence == "launches":
            durations, unit = [launch.seconds for launch in self.launches], "launch"
        else:
            durations, unit = [record.wall_s for record in self.runs], "run"
            if part.both:
                pairs = zip(self.base_runs, durations, strict=True)
                durations, unit = [a.wall_s + b for a, b in pairs], "block"
        next_s = max(durations, default=part.unit_s or 0.0)
        limit_s = self.plan.budget_s if part.stop_after_s is None else part.stop_after_s
        if limit_s is None or time.time() - self.started_at + next_s <= limit_s:
            return True
        which = "budget" if part.stop_after_s is None else "share of the budget for speed"
        number = f"{unit} {len(durations) + 1}"
        if part.rule == "group_sequential":
            number += f" of {part.n_b}"
        self.notes.append(f"the {which}, {duration(limit_s)}, ended before {number}")
        return False

    # the result

    def _without_metrics(self, targets: list[TargetResult], log: str | None) -> GateResult:
        request, stored = self.prepared.request, self.prepared.request.baseline
        return GateResult(
            key=self.prepared.key,
            number=self.number,
            outcome="inconclusive",
            reason="",
            alpha=request.alpha,
            claim=request.claim,
            a=self.prepared.reference,
            b=self.prepared.b.identity,
            metrics=[],
            targets=targets,
            plan=self.plan,
            baseline_hash=stored.now.hash if stored else None,
            candidate_runs=[attempt_name(record) for record in self.runs],
            base_runs=[attempt_name(record) for record in self.base_runs],
            notes=self.notes,
            log_tail=log,
            launches=self.launches,
            core=self._core(),
            scale=self.prepared.bench.scale,
            device=self._device(),
            environment_id=self._environment_id(),
            boot_id=boot_id(),
            started_at=self.started_at,
            ended_at=time.time(),
        )

    def _core(self) -> PairedCore | None:
        """CORE of both sides by example, where the store has the answers of side A."""
        stored, reference = self.prepared.request.baseline, self._reference()
        if self.evaluator is not None:
            return None  # its examples are answered by the candidate's code
        if reference is None or not self.runs or not _has_core(reference):
            return None
        if not _has_core(self.runs[0]):
            self.notes.append("CORE: the baseline measured it and the candidate did not")
            return None
        alpha = self.prepared.request.alpha
        records = stored.now.records if stored is not None else self.base_runs
        paired = core_by_example.of_records(self.store, records, self.runs, alpha, self.noise_model)
        if paired is None:
            self.notes.append(
                "CORE was not compared by example: the store has no answers of the baseline"
            )
        return paired

    def _device(self) -> str | None:
        """As a trainer reported it, where one ran."""
        if self.runs:
            return device_name(self.runs[0].environment)
        reported = self.launches[0].device if self.launches else None
        return reported or self.prepared.bench.device

    def _environment_id(self) -> str:
        if self.launches:
            return self.launches[0].environment_id
        return self.runs[0].environment_id if self.runs else ""


def _side_failure(failure: StepperFailed, *, by_candidate: bool) -> Exception:
    """CandidateFailed for the candidate's own fault. A fault that side A shares, that came from
    outside, or that kept the code from starting is an error."""
    log = failure.log or ""
    own = by_candidate and not failure.killed and NO_MODULE not in failure.reason + log
    if own and failure.status in CANDIDATE_FAULTS:
        what = CANDIDATE_FAULTS[failure.status]
        reason = f"the candidate {what} while its speed was measured: {failure.reason}"
        return CandidateFailed(reason, log)
    return TrainerError(
        f"side {failure.side}",
        "a trainer that steps on command",
        failure.reason,
        _last_line(log) or "See its log in the gate's folder of the store.",
    )


def _check_run(record: Record, reference: Record | None, *, by_candidate: bool) -> None:
    """Raises CandidateFailed where the candidate is at fault, else TrainerError.

    `reference`: a run of side A; None before there is one.
    """
    reason, seed = record.reason or "no reason given", record.seed
    if record.status == "completed":
        missing = _missing_metrics(record, reference) if by_candidate and reference else []
        if missing:
            what = " and no ".join(missing)
            raise CandidateFailed(f"the candidate has no {what} at seed {seed}: {reason}")
        return
    own = (
        by_candidate and record.signal is None and NO_MODULE not in reason + (record.log_tail or "")
    )
    ran = by_candidate and record.status != "failed"
    if record.status in CANDIDATE_FAULTS and (own or ran):
        what = CANDIDATE_FAULTS[record.status]
        raise CandidateFailed(f"the candidate {what} at seed {seed}: {reason}", record.log_tail)
    raise TrainerError(
        f"seed {seed}",
        f"a completed run of {'the candidate' if by_candidate else 'the base'}",
        reason,
        record.hint or "Re-run the same command to resume; finished runs are kept.",
    )


def _missing_metrics(record: Record, reference: Record) -> list[str]:
    """Quality metrics that side A has and this run lacks."""
    same_config = record.identity.config_id == reference.identity.config_id
    return [
        name
        for name in QUALITY
        if not METRICS[name].core or (same_config and METRICS[name].margin)  # CORE can be off
        if reference.metrics.get(name) is not None and record.metrics.get(name) is None
    ]


def _seed_at(seeds: Sequence[int], index: int) -> int:
    """The baseline's seeds in their order, then new ones; a baseline of one seed keeps it."""
    if index < len(seeds):
        return seeds[index]
    one_seed = len(seeds) > 1 and len(set(seeds)) == 1
    return seeds[0] if one_seed else max(seeds) + 1 + index - len(seeds)


def _has_core(record: Record) -> bool:
    return any(record.metrics.get(name) is not None for name in CORE_SCORES)


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else ""
