"""Did this change make anything worse? One gate, from two names to a verdict a metric.

A candidate's quality is compared with a stored baseline, run by run; its speed with that of another
ref or configuration, both on this host in turns. `rounds` says how many of either it takes;
here they are made. A candidate that crashes or diverges is a regression with its reason; what is no
fault of the candidate ends in an error, never in a verdict.

After `launcher`, `rounds` and `whole`; prints nothing.
"""

import math
import time
from collections.abc import Callable, Sequence

import msgspec

from harness.compare import core_by_example
from harness.compare.core import METRICS, PairedCore
from harness.compare.noise_model import NoiseModel
from harness.errors import TrainerError
from harness.gate import ab_interleaved, baseline, history, launches, planning
from harness.gate.baseline import Baseline
from harness.gate.launches import Launcher
from harness.gate.result import GatePlan, GateResult, PartPlan
from harness.gate.rounds import Rounds, launch_row, speed_margin
from harness.gate.sides import Prepared
from harness.gate.whole import concluded
from harness.results.recipe import device_name, is_full_scale
from harness.results.record import Record, attempt_name
from harness.results.run_files import boot_id
from harness.results.store import Store
from harness.runner import replicates
from harness.runner.process import Stop
from harness.runner.stepper import StepperFailed, StepperStopped

NO_MODULE = "No module named"  # Python's words: the code was never tried
CONDEMNING = {"failed": "crashed", "diverged": "diverged", "out_of_memory": "ran out of memory"}


class _Ended(Exception):
    """The candidate cannot be measured further, which is the verdict."""

    def __init__(self, reason: str, log: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.log = reason, log


# --- before anything is spent ---------------------------------------------------------------------


def plan(prepared: Prepared, noise_model: NoiseModel, stored: Sequence[GateResult]) -> GatePlan:
    """What the gate will take and be able to say.

    The speed goes first, and leaves the runs what they need for a verdict, up to half of the
    budget. Launches that nobody counted beforehand have the other half where the rule is open.
    """
    asked, parts = prepared.asked, []
    left_s = asked.budget_s
    if prepared.a is not None:
        until_s = _launches_until_s(prepared)
        budget_s = _left_for_launches_s(prepared, noise_model) if until_s is None else until_s
        terms = planning.Terms(alpha=asked.alpha, rule=asked.rule, budget_s=budget_s)
        unit_s = launches.launch_seconds(prepared, stored)
        row, margin = launch_row(prepared.bench, noise_model, prepared.form), speed_margin(asked)
        part = planning.speed_plan(row, margin, unit_s, terms)
        part = planning.with_turns(part, prepared.ab_mode)
        parts.append(msgspec.structs.replace(part, until_s=until_s))
        if left_s is not None:
            left_s = max(0.0, left_s - (part.seconds or 0.0))
    if prepared.compares_quality and asked.baseline is not None:
        terms = planning.Terms(alpha=asked.alpha, rule=asked.rule, budget_s=left_s)
        parts.append(_quality_part(prepared, asked.baseline, noise_model, terms))
    return GatePlan(
        parts=parts,
        budget_s=asked.budget_s,
        alpha=asked.alpha,
        price_usd_per_hour=asked.price_usd_per_hour,
        gpus=asked.baseline.gpus if asked.baseline else 1,
    )


def _launches_until_s(prepared: Prepared) -> float | None:
    """Half of the budget where launches go on until it ends and runs are to follow, else None."""
    asked = prepared.asked
    if asked.rule == "looks" or asked.budget_s is None or not prepared.compares_quality:
        return None
    return asked.budget_s / 2


def _left_for_launches_s(prepared: Prepared, noise_model: NoiseModel) -> float | None:
    """The budget without what runs take that can come to a verdict within half of it."""
    asked = prepared.asked
    if asked.budget_s is None or not prepared.compares_quality or asked.baseline is None:
        return asked.budget_s
    terms = planning.Terms(alpha=asked.alpha, rule=asked.rule, budget_s=asked.budget_s / 2)
    runs = _quality_part(prepared, asked.baseline, noise_model, terms)
    kept_s = runs.seconds if planning.has_chance(runs) else None
    return asked.budget_s - (kept_s or 0.0)


def _quality_part(
    prepared: Prepared, stored: Baseline, noise_model: NoiseModel, terms: planning.Terms
) -> PartPlan:
    records = stored.now.records
    return planning.quality_plan(
        records,
        noise_model,
        prepared.asked.margins,
        is_full_scale(records[0]),
        math.fsum(record.wall_s for record in records) / len(records),
        terms,
    )


# --- the gate -------------------------------------------------------------------------------------


class Gate:
    """One gate under way."""

    def __init__(
        self,
        prepared: Prepared,
        planned: GatePlan,
        store: Store,
        noise_model: NoiseModel,
        stop: Stop,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.prepared, self.planned, self.store = prepared, planned, store
        self.noise_model, self.stop, self.say = noise_model, stop, say
        self.number, self.folder = history.begin(store, prepared.key)
        self.started_at = time.time()
        self.launcher: Launcher | None = None
        self.launches: list[ab_interleaved.AbLaunch] = []
        self.runs: list[Record] = []
        self.notes = list(prepared.notes)

    def execute(self) -> GateResult:
        """Runs it to its end and stores the result. Raises HarnessError and PaceStopped."""
        rounds, ended = (
            Rounds(self.prepared.asked, self.prepared.bench, self.noise_model, self),
            None,
        )
        try:
            self._take(rounds)
        except _Ended as error:
            ended = error
        result = concluded(
            self._bare(ended.log if ended else None),
            rounds.metrics,
            history.load(self.store),
            once=self.prepared.asked.once,
            ended=ended.reason if ended else None,
        )
        history.save(self.store, result)
        return result

    def _take(self, rounds: Rounds) -> None:
        try:
            rounds.take(self.planned)
        except ab_interleaved.NoRoom as error:
            self._one_after_the_other(error)
            rounds.take(self.planned)

    def _one_after_the_other(self, error: ab_interleaved.NoRoom) -> None:
        """Plans anew: nothing was measured yet, and the form was the harness's to choose.

        Raises the error where a form was asked for.
        """
        if self.launches:
            raise error
        self.prepared, self.launcher = launches.in_relay(self.prepared, error), None
        self.planned = plan(self.prepared, self.noise_model, history.load(self.store))
        part = next(part for part in self.planned.parts if part.evidence == "launches")
        each = "" if part.unit_s is None else f" of {part.unit_s:.0f} s"
        correction = f"up to {part.n_b} launches" if part.rule == "looks" else "open, launches"
        self.notes.append(f"planned anew, {correction}{each}; {part.notes[0]}")
        self.say(self.notes[-1])

    # what the rounds buy

    def launch(self) -> None:
        """Starts both sides afresh and lets them take turns."""
        self.launcher = self.launcher or Launcher(self.prepared, self.folder, self.stop)
        number = len(self.launches) + 1
        try:
            made = self.launcher.launch(number)
        except ab_interleaved.Trouble as trouble:
            raise _verdict_on(trouble.failure, of_b=trouble.of_b) from trouble
        self.launches.append(made)
        self.say(f"launch {number}: {_percent(made)} in {made.seconds:.0f} s")

    def run(self) -> None:
        """Makes the candidate's run at the next seed of the baseline."""
        stored = self.prepared.asked.baseline
        assert stored is not None, "quality is compared with a baseline"
        seed = _seed_at(stored.now.seeds, len(self.runs))
        spent = {attempt_name(r) for entry in stored.entries for r in entry.records}
        spent |= {attempt_name(record) for record in self.runs}
        made = replicates.run_or_reuse(
            self.store,
            self.prepared.b.trainer,
            self.prepared.b.recipe.job(seed),
            self.stop,
            timeout_s=self.prepared.asked.run_limit_s,
            spent=spent,
        )
        if self.stop:
            raise StepperStopped
        _refuse_failed(made, stored)
        baseline.refuse_other_machine(stored, made)
        self.runs.append(made)
        number = len(self.runs)
        self.say(f"run {number}, seed {seed}: {_measured(made)} in {made.wall_s:.0f} s")

    def has_time(self, part: PartPlan) -> bool:
        """Whether the next one, as long as the longest so far, ends before the part's time does."""
        made = self.launches if part.evidence == "launches" else self.runs
        next_s = max((_seconds(one) for one in made), default=part.unit_s or 0.0)
        limit_s = self.planned.budget_s if part.until_s is None else part.until_s
        if limit_s is None or time.time() - self.started_at + next_s <= limit_s:
            return True
        which = "budget" if part.until_s is None else "speed's share of the budget"
        what = "launch" if part.evidence == "launches" else "run"
        number = f"{what} {len(made) + 1}" + (f" of {part.n_b}" if part.rule == "looks" else "")
        self.notes.append(f"the {which}, {limit_s / 60:g} minutes, ended before {number}")
        return False

    # the whole

    def _bare(self, log: str | None) -> GateResult:
        """Everything but the verdicts."""
        asked, stored = self.prepared.asked, self.prepared.asked.baseline
        return GateResult(
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
            candidates=[attempt_name(record) for record in self.runs],
            notes=self.notes,
            log_tail=log,
            launches=self.launches,
            core=self._core(stored),
            scale=self.prepared.bench.scale,
            device=self._device(),
            environment_id=self._environment_id(),
            boot_id=boot_id(),
            started_at=self.started_at,
            ended_at=time.time(),
        )

    def _core(self, stored: Baseline | None) -> PairedCore | None:
        """Both sides example by example, where this store kept the baseline's answers too."""
        if stored is None or not self.runs or not _has_core(stored.now.records[0]):
            return None
        if not _has_core(self.runs[0]):
            self.notes.append("CORE: the baseline measured it and the candidate did not")
            return None
        found = core_by_example.of_records(
            self.store, stored.now.records, self.runs, self.prepared.asked.alpha, self.noise_model
        )
        if found is None:
            self.notes.append(
                "CORE was not compared example by example: the store has no answers of the baseline"
            )
        return found

    def _device(self) -> str | None:
        """As a trainer saw it from inside, where one ran."""
        if self.runs:
            return device_name(self.runs[0].environment)
        seen = self.launches[0].device if self.launches else None
        return seen or self.prepared.bench.device

    def _environment_id(self) -> str:
        if self.launches:
            return self.launches[0].environment_id
        return self.runs[0].environment_id if self.runs else ""


def _verdict_on(failure: StepperFailed, *, of_b: bool) -> Exception:
    """B's own fault is a verdict; what A shares, came from outside or was never tried is none."""
    log = failure.log or ""
    own = of_b and not failure.killed and NO_MODULE not in failure.reason + log
    if own and failure.status in CONDEMNING:
        what = CONDEMNING[failure.status]
        return _Ended(f"the candidate {what} while its speed was measured: {failure.reason}", log)
    return TrainerError(
        f"side {failure.side}",
        "a trainer that steps when it is told",
        failure.reason,
        _last_line(log) or "Its log stands in the gate's folder of the store.",
    )


def _refuse_failed(made: Record, stored: Baseline) -> None:
    """Raises _Ended where a run condemns the candidate, TrainerError where it says nothing."""
    reason = made.reason or "it gave no reason"
    if made.status == "completed":
        same = made.identity.config_id == stored.now.identity.config_id  # CORE can be switched off
        lost = [
            name
            for name in ("val_bpb", "val_loss", *(("core_soft",) if same else ()))
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
        f"seed {made.seed}",
        "a run of the candidate",
        reason,
        made.hint or "Start the gate again; whole runs are kept.",
    )


def _seed_at(seeds: Sequence[int], index: int) -> int:
    """The baseline's seeds in their order, then new ones; one seed alone is held."""
    if index < len(seeds):
        return seeds[index]
    return (
        seeds[0] if len(seeds) > 1 and len(set(seeds)) == 1 else max(seeds) + 1 + index - len(seeds)
    )


def _has_core(record: Record) -> bool:
    return any(record.metrics.get(name) is not None for name in METRICS)


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _seconds(one: ab_interleaved.AbLaunch | Record) -> float:
    return one.seconds if isinstance(one, ab_interleaved.AbLaunch) else one.wall_s


def _percent(made: ab_interleaved.AbLaunch) -> str:
    mean = math.fsum(made.ratios) / len(made.ratios)
    return f"step time {100 * math.expm1(mean):+.2f} %"


def _measured(made: Record) -> str:
    names = ("val_bpb", "val_loss")
    return ", ".join(f"{name} {made.metrics[name]:.5f}" for name in names if made.metrics.get(name))
