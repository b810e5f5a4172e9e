"""What `harness full` does, step by step; an exit code for every end.

Describe, look whether it is answered already, ask for needs, foretell, probe, take test steps,
price it, launch, and at the end the row. Every step begins with what is recorded, so that the same
command goes on wherever it was stopped; nothing is spent before the forecast is on the terminal.
Beside `commands`.
"""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from harness import errors, files
from harness.compare.noise_model import NoiseModel
from harness.config.full_file import FullFile
from harness.errors import StoreError
from harness.files import lock_file
from harness.full import evidence
from harness.full.finish import Finalizer
from harness.full.launch import End, JobLauncher, Until, answer
from harness.full.monitor import Course
from harness.full.plan import JobPlan, plan
from harness.full.predict import Prediction, foretell, with_cost
from harness.full.preflight import Examiner, Preflight
from harness.full.series import Made, hopeless, make, missing, recorded
from harness.gate import baseline
from harness.gate.noise_sources import load_noise_model
from harness.report.full import terminal
from harness.results.record import Identity, Record
from harness.results.store import Store
from harness.runner.attempt import recover
from harness.runner.multinode import multinode_command
from harness.runner.process import Stop, stop_on_signals
from harness.runner.replicates import recorded_run
from harness.runner.stepper import StepperStopped
from harness.runner.trainer import NativeTrainer, PreflightFinding, by_name

if TYPE_CHECKING:
    from rich.console import Console


class FullOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How far one command goes, and where it finds what is stored."""

    noise_model: Path
    baselines: Path
    dry_run: bool = False
    preflight_only: bool = False
    proxies: bool = False
    without_forecast: bool = False
    max_minutes: float | None = None
    evidence: Path | None = None
    json: bool = False


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`plan.json` of a job: which run is meant by its name."""

    plan_id: str
    identity: Identity
    seed: int
    ranks: int
    proxies: list[str]


def full(console: "Console", file: FullFile, path: Path, store: Store, options: FullOptions) -> int:
    """Makes a full job, or goes on with it. With `json`, one object on stdout at the end."""
    command = FullJob(console, file, path, store, options)
    code = command.run()
    if options.json:
        told = {**command.told, "exit_code": code}
        sys.stdout.write(msgspec.json.encode(told, order="sorted").decode() + "\n")
    return code


class FullJob:
    """One command of one job. `told`: what it found, as plain values."""

    def __init__(
        self, console: "Console", file: FullFile, path: Path, store: Store, options: FullOptions
    ) -> None:
        self.console, self.file, self.path = console, file, path
        self.store, self.options = store, options
        self.trainer = over_nodes(by_name(file.trainer), file)
        self.folder = evidence.job_dir(store, file.full)
        self.stop, self.began = Stop(), time.monotonic()
        self.until = self._until(math.inf)
        self.stored: baseline.Baseline | None = None
        self.told: dict[str, Any] = {"full": file.full}

    def run(self) -> int:
        """All steps. Raises HarnessError; what was recorded stays."""
        with self._only_one(), stop_on_signals(self.stop):
            for record in recover(self.store):
                self._say(
                    f"A killed harness had left {record.plan_id}, seed {record.seed}; recorded as "
                    f"{record.status}."
                )
            try:
                return self._steps()
            except StepperStopped:
                return self._end(errors.STOPPED_AT_LIMIT, self.until.reason)

    def _steps(self) -> int:
        if self.file.baseline is not None:  # a name that nobody has is said before anything else
            self.stored = baseline.find(self.options.baselines, self.file.baseline)
        planned = plan(self.file, self.path, self.trainer, prepares=False)
        self._refuse_other(planned)
        if (
            not self.options.proxies
            and (answer := recorded_run(self.store, planned.job, ())) is not None
        ):
            if not self.options.dry_run:
                self._keep(planned)
            return self._answered(planned, answer)
        if self.options.dry_run:
            with TemporaryDirectory() as scratch:
                return self._dry_run(planned, self._examiner(planned, Path(scratch)).needs())
        examiner = self._examiner(planned, self.folder)
        found = examiner.needs()
        if found.stops and not self.options.proxies:
            return self._unfit(found)
        if not planned.ready:
            planned, found = plan(self.file, self.path, self.trainer), examiner.needs()
        self._keep(planned)
        if self.stored is not None:  # another recipe's baseline decides nothing
            baseline.check_comparable(self.stored, planned.job.identity, own_settings=False)
        if self.options.proxies:
            return self._make_proxies(planned)
        return self._try(planned, examiner, found)

    def _examiner(self, planned: JobPlan, kept_in: Path) -> Examiner:
        """`kept_in`: where the configuration that it asks about is written."""
        file, config = self.file, planned.job.config
        config_file = kept_in.resolve() / "config.json"
        return Examiner(
            self.trainer, config, file.ranks, self.folder, self.until, file.nodes, config_file
        )

    def _try(self, planned: JobPlan, examiner: Examiner, found: Preflight) -> int:
        """Forecast, probe, step test, price; then the run, where nothing stands against it."""
        records, noise_model = recorded(planned, self.store), self._ledger()
        foretold = foretell(planned, self.store, records, noise_model)
        self._tell_foretold(planned, foretold)
        needs_one = not (self.options.without_forecast or self.options.preflight_only)
        if foretold.forecast is None and needs_one:
            return self._end(errors.COULD_NOT_RUN, "Nothing was started.")
        found = self._looked_at(examiner, found, planned.stages)
        foretold = with_cost(foretold, planned, self.store, records, noise_model, found)
        found = found.with_(self._time_limit(planned, foretold))
        self._tell_preflight(found)
        if foretold.cost is not None:
            for line in terminal.cost_lines(foretold.cost):
                self._say(line)
        self._save_foretold(planned, foretold)
        if found.stops:
            return self._end(errors.COULD_NOT_RUN, "Nothing was started.")
        if self.options.preflight_only:
            return self._end(errors.PASS, "The job can start here.")
        return self._launch(planned, foretold, found, examiner)

    # before -----------------------------------------------------------------------------------

    def _dry_run(self, planned: JobPlan, found: Preflight) -> int:
        """Forecast and needs, with nothing made ready and no GPU taken."""
        records = recorded(planned, self.store)
        foretold = foretell(planned, self.store, records, self._ledger())
        self._tell_foretold(planned, foretold)
        self._tell_preflight(found)
        would = f"{len(found.stops)} findings keep it from starting" if found.stops else "it may go"
        text = f"A dry run: by its needs {would}. --preflight looks at the GPUs and takes steps."
        return self._end(errors.PASS, text)

    def _refuse_other(self, planned: JobPlan) -> None:
        """Refuses another job of the same name; data that is not ready says nothing of that."""
        value = files.read_json(self.folder / "plan.json")
        if value is None:
            return
        old, new = msgspec.convert(value, _Kept), _kept(planned)
        if not planned.ready:
            old = msgspec.structs.replace(
                old, identity=msgspec.structs.replace(old.identity, data_id=None)
            )
        refuse_other(self.file.full, old, new, self.store)

    def _keep(self, planned: JobPlan) -> None:
        """Writes what the name stands for."""
        self._refuse_other(planned)
        files.write_json(self.folder / "plan.json", msgspec.to_builtins(_kept(planned)))
        files.write_text(self.folder / "job.yaml", self.path.read_text(encoding="utf-8"))
        files.write_json(self.folder / "job.json", msgspec.to_builtins(self.file))

    def _looked_at(self, examiner: Examiner, found: Preflight, stages: Sequence[int]) -> Preflight:
        """Needs, and what the GPUs have to say; no step where a probe forbids it."""
        found = examiner.probe(found)
        self._refuse_if_stopped()
        if not found.stops and self.trainer.paces:
            found = examiner.steps(found, self.file.step_test_seconds, stages)
        return found

    def _refuse_if_stopped(self) -> None:
        if self.until:
            raise StepperStopped

    def _time_limit(self, planned: JobPlan, foretold: Prediction) -> list[PreflightFinding]:
        """Whether the job can end within its hours, by its forecast."""
        if foretold.cost is None:
            return []
        attempts = self.store.attempts(planned.job.plan_id)
        left_s = 3600 * self.file.limits.hours - sum(made.wall_s for made in attempts)
        done = max((made.steps for made in attempts), default=0) / max(1, planned.steps)
        needs = foretold.cost.wall_s
        return [
            PreflightFinding(
                what="time limit",
                ok=needs.high * (1 - done) <= left_s,
                expected=f"{needs.high * (1 - done) / 3600:.2f} h at most, as foretold",
                got=f"{left_s / 3600:.2f} h left of limits.hours",
                hint="Raise limits.hours; at the limit the run stops with a checkpoint, and "
                "the same command goes on.",
                severity="warns",
            )
        ]

    def _unfit(self, found: Preflight) -> int:
        self._tell_preflight(found)
        return self._end(errors.COULD_NOT_RUN, "Nothing was started.")

    def _tell_foretold(self, planned: JobPlan, foretold: Prediction) -> None:
        if foretold.forecast is None and planned.proxies == []:
            foretold = msgspec.structs.replace(
                foretold, why_none="the file names no proxies; --without-forecast starts anyway"
            )
        terminal.print_foretold(self.console, foretold)
        self._save_foretold(planned, foretold)

    def _save_foretold(self, planned: JobPlan, foretold: Prediction) -> None:
        """What was foretold before the first attempt stays: it is what the run is held against."""
        begun = (
            self.store.attempts(planned.job.plan_id) and (self.folder / "forecast.json").exists()
        )
        if begun:
            self.told["forecast"] = msgspec.to_builtins(foretold)
        else:
            self._save("forecast", foretold)

    def _tell_preflight(self, found: Preflight) -> None:
        looks = self.options.preflight_only or self.options.dry_run
        terminal.print_findings(self.console, found.findings, all_of_them=looks)
        self._save("preflight", found)

    # proxies ----------------------------------------------------------------------------------

    def _make_proxies(self, planned: JobPlan) -> int:
        todo = missing(planned, self.store)
        self._say(f"{len(planned.proxies)} proxies, {len(todo)} to make")
        until = self._until(math.inf)

        def ended(made: Made) -> None:
            self._say(terminal.proxy_line(made))

        make(todo, planned, self.store, self.trainer, until, ended)
        foretold = foretell(planned, self.store, recorded(planned, self.store), self._ledger())
        self._tell_foretold(planned, foretold)
        if len(recorded(planned, self.store)) == len(planned.proxies):
            return self._end(errors.PASS, "All proxies are recorded.")
        if until:
            return self._end(errors.STOPPED_AT_LIMIT, until.reason)
        if vain := hopeless(planned, self.store):
            again = "They would end so again: change proxies.values or proxies.set."
            text = "; ".join(terminal.proxy_line(made) for made in vain)
            return self._end(errors.COULD_NOT_RUN, f"Not completed: {text}. {again}")
        text = "Not all proxies were completed; the same command makes the others."
        return self._end(errors.COULD_NOT_RUN, text)

    # the run ----------------------------------------------------------------------------------

    def _until(self, left_s: float) -> Until:
        """The nearer end: of the command's minutes, or of the job's hours."""
        ends = [(time.monotonic() + left_s, "limits.hours are used up. Raise it")]
        if (minutes := self.options.max_minutes) is not None:
            ends.append((self.began + 60 * minutes, f"--max-minutes {minutes:g} are over. Again"))
        deadline, what = min(ends)
        return Until(self.stop, deadline, f"{what}, and the same command goes on.")

    def _launch(
        self, planned: JobPlan, foretold: Prediction, found: Preflight, examiner: Examiner
    ) -> int:
        spent_s = sum(made.wall_s for made in self.store.attempts(planned.job.plan_id))
        if not self.store.attempts(planned.job.plan_id):  # a resumed run is of the same code
            evidence.save_code(self.folder, self.trainer.checkout)
        course = Course(
            steps=planned.steps,
            ranks=self.file.ranks,
            price_usd_per_gpu_hour=self.file.price_usd_per_gpu_hour,
            band=foretold.band,
            cost=foretold.cost,
            checkpoint_bytes=found.checkpoint_bytes,
        )
        launch = JobLauncher(self.console, planned, self.store, self.trainer, course, self.folder)
        end = launch.run(
            self._until(3600 * self.file.limits.hours - spent_s),
            lambda: examiner.probe(examiner.needs()).stops,
        )
        self.told["alarms"] = msgspec.to_builtins(launch.alarms)
        if end.record is None or end.exit_code != errors.PASS:
            return self._broken_off(end)
        return self._answered(planned, end.record)

    def _broken_off(self, end: End) -> int:
        if end.record is not None:
            place = self.store.run_dir(end.record.plan_id, end.record.attempt)
            self._say(end.record.log_tail or "")
            self._say(f"run directory: {place}")
        return self._end(end.exit_code, end.reason)

    # after ------------------------------------------------------------------------------------

    def _answered(self, planned: JobPlan, record: Record) -> int:
        """The row of a completed run, the verdict, the evidence."""
        end = answer(record)
        if end.exit_code != errors.PASS:
            return self._end(end.exit_code, end.reason)
        closing = Finalizer(self.store, self.file, record, self._ledger(), self.stored, self._say)
        found, code = closing.row()
        self._save("row", found)
        closing.tell(found)
        if not self.options.dry_run:
            closing.write(found, self.options.evidence, recorded(planned, self.store))
        return self._end(code, "")

    # shared -----------------------------------------------------------------------------------

    def _ledger(self) -> NoiseModel:
        return load_noise_model(self.options.noise_model, self.store)

    def _save(self, name: str, found: msgspec.Struct) -> None:
        """Keeps a part of the answer with the job; a dry run only tells it."""
        self.told[name] = msgspec.to_builtins(found)
        if not self.options.dry_run:
            files.write_json(self.folder / f"{name}.json", self.told[name])

    def _end(self, code: int, reason: str) -> int:
        self.told["reason"] = reason or None
        if reason:
            self._say(reason)
        return code

    def _say(self, text: str) -> None:
        terminal.say(self.console, text)

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Raises StoreError while another harness is at work on the job."""
        handle = lock_file(self.folder / "lock")
        if handle is None:
            raise StoreError(
                str(self.store.root),
                f"nobody else at work on the job {self.file.full!r}",
                "another harness that is",
                "Wait for its end, or name another --store.",
            )
        try:
            yield
        finally:
            handle.close()


def over_nodes(trainer: NativeTrainer, file: FullFile) -> NativeTrainer:
    """The trainer; where there are several nodes, its ranks start on all of the allocation."""
    if file.nodes > 1:

        def launcher(python: str, words: Sequence[str], ranks: int) -> list[str]:
            return multinode_command(words, file.nodes, ranks // file.nodes, python=python)

        trainer.launcher = launcher
    return trainer


def _kept(planned: JobPlan) -> _Kept:
    job = planned.job
    return _Kept(
        plan_id=job.plan_id,
        identity=job.identity,
        seed=job.seed,
        ranks=job.ranks,
        proxies=[proxy.job.plan_id for proxy in planned.proxies],
    )


def refuse_other(name: str, old: _Kept, new: _Kept, store: Store) -> None:
    """Raises StoreError where runs of another job stand under this name."""
    if _flat(old) == _flat(new) or not store.attempts(old.plan_id):
        return
    before, now = _flat(old), _flat(new)
    found = [
        f"{field} {before[field]}, now {value}"
        for field, value in now.items()
        if value != before[field]
    ]
    raise StoreError(
        f"full: {name}",
        "one job of this name in a store",
        "; ".join(found),
        "Give it another name, bring the old settings or code back, or name another --store.",
    )


def _flat(kept: _Kept) -> dict[str, Any]:
    return {**msgspec.to_builtins(kept.identity), "seed": kept.seed, "ranks": kept.ranks}
