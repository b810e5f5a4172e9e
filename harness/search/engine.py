"""What `harness search` does, step by step; an exit code for every end.

Read the file, resolve, end what a killed harness left, replicate the base, make the trials, look
again at the best, write out what survives, report. Every step begins with what is recorded, so
that the same command goes on wherever it was stopped. Beside `commands`.
"""

import contextlib
import importlib.util
import math
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import errors, files
from harness.config.search_file import SearchFile, check
from harness.errors import ReportError, StoreError, StudyFileError
from harness.files import digest
from harness.redact import redact_argv
from harness.report.search import export, terminal
from harness.report.study import EXTRA
from harness.report.study.progress import StudyProgress
from harness.results.record import Record
from harness.results.store import Store
from harness.results.study_plan import plan_id
from harness.runner.attempt import recover
from harness.runner.process import Stop, stop_on_signals
from harness.runner.trainer import by_name
from harness.runner.workers import GpuPool, check_gpus
from harness.search import base_noise, confirm, patch, results, storage
from harness.search.base_noise import BaseNoise
from harness.search.objective import Objective, slope_of
from harness.search.plan import SearchPlan, resolve
from harness.search.trial import TrialResult, TrialRunner, told, worker
from harness.search.workers import LOOK_S, SearchBudget, WorkerPool
from harness.study.budget_limits import STOPPED, StopStudy
from harness.study.executor import Command, Executor, StudyOptions
from harness.study.resolve import resolve as resolve_study

if TYPE_CHECKING:
    from optuna import Study
    from rich.console import Console


OBJECTIVE = "objective"  # the Optuna study's attribute that holds what is sought
ELSEWHERE = ("code_id", "data_id")  # of a search that another machine made, and that is only read
FAILED = "base failed"  # the one that says when and why there is no base; None: it may yet be


class SearchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one command searches. `worker`: trials alone; base and second look are another's part.

    `patience_minutes`: how long a worker waits for the base, where both begin at once; `since`: the
    Unix time from which on a failure of the base ends that, its own beginning unless given.
    `report_only`: what is found so far, by whatever commands are at work.
    """

    max_minutes: float | None = None
    gpus: list[str] = []
    storage: str | None = None
    worker: bool = False
    patience_minutes: float = 0.0
    since: float | None = None
    report_only: bool = False
    html: bool = True


class Searching:
    """One command of one search."""

    def __init__(
        self,
        console: "Console",
        file: SearchFile,
        path: Path,
        store: Store,
        options: SearchOptions,
        command: Command | None = None,
    ) -> None:
        self.console, self.file, self.path = console, file, path
        self.store, self.options = store, options
        self.command = command or Command(Stop())
        self.trainer = by_name(file.trainer)
        self.url = storage.url_of(store, file.search, options.storage)
        self.where = str(path)
        self.since = time.time() if options.since is None else options.since
        self.mark = ""  # of this command; the one that began the search has none

    def run(self) -> int:
        """All steps. Raises HarnessError; what was recorded stays."""
        storage.import_optuna()
        check_gpus(self.options.gpus, self.trainer)
        reads = self.options.report_only
        plan = resolve(self.file, self.path, self.trainer, prepares=not reads)
        self._check_parts(plan)
        if not self.options.report_only:
            self._tell_recovered(recover(self.store))
            self._make_storage(plan)
        with storage.open_storage(self.url) as self.opened:
            try:
                with stop_on_signals(self.command.stop):
                    reason, code = self._steps(plan), errors.PASS
            except StopStudy as halt:
                reason, code = str(halt), halt.exit_code
            told_any = self._report(plan)
        if self.options.report_only:
            reason = "" if told_any else f"Nothing of {self.file.search} is found yet."
        if reason:
            terminal.say(self.console, reason)
        return code

    def best_points(self, count: int) -> list[dict[str, Any]]:
        """Base and trials alone; the settings of the best trials. Raises Halt at a limit."""
        storage.import_optuna()
        plan = resolve(self.file, self.path, self.trainer)
        slots = GpuPool(self.store, self.trainer, self.options.gpus, self.file.limits.run_minutes)
        with storage.open_storage(self.url) as self.opened, stop_on_signals(self.command.stop):
            objective, base = self._base(plan, slots)
            self._trials(plan, slots, objective, base)
            trials = confirm.eligible(self._study(plan, "", 0).get_trials(deepcopy=False))
            trials.sort(key=lambda trial: float(trial.values[0]))
            answers = [told(trial) for trial in trials[:count]]
        return [answer.overrides for answer in answers if answer is not None]

    def _make_storage(self, plan: SearchPlan) -> None:
        """Its tables, and the search in them, where they are new; and what marks this command.

        By a mark of its own each command draws other points than those that work beside it. The one
        that makes the search has none: its points follow from the search file alone.
        """
        directions = Objective(names=self.file.objectives).directions
        with self.store.locked(), storage.open_storage(self.url) as self.opened:
            if not storage.make_study(self.opened, self.file.search, directions):
                self.mark = digest([socket.gethostname(), worker()], 16)
            self._study(plan, "", 0)

    def _check_parts(self, plan: SearchPlan) -> None:
        """Refuses a sampler, a pruner or a study of the slope before anything is spent."""
        storage.sampler_of(self.file.sampler, 0, self.where)
        storage.pruner_of(self.file.pruner, 2, self.where)
        if not (self.options.worker or self.options.report_only):
            slope_of(self.store, self.file, plan.base.identity, self.where)

    def _steps(self, plan: SearchPlan) -> str:
        if self.options.report_only:
            return ""
        slots = GpuPool(self.store, self.trainer, self.options.gpus, self.file.limits.run_minutes)
        objective, base = self._base(plan, slots)
        for line in terminal.noise_words(base):
            terminal.say(self.console, line)
        if why := terminal.pruning_words(objective, base):
            terminal.say(self.console, why)
        if base.gpus == 0 and self.file.budget.trials is None:
            raise StudyFileError(
                f"{self.where}: budget",
                "a number of trials, where runs use no GPU",
                "a budget of GPU time alone",
                "Add trials: the search would never end.",
            )
        reason = self._trials(plan, slots, objective, base)
        if self.options.worker or not self.file.confirm.best:
            return reason
        return self._second_look(plan, reason)

    # the base ---------------------------------------------------------------------------------

    def _base(self, plan: SearchPlan, slots: GpuPool) -> tuple[Objective, BaseNoise]:
        """What is sought and the noise of the base, measured now or by another command."""
        study = self._study(plan, "", 0)
        if self.options.worker:
            known = self._attributes_with_base(study)
            return (
                msgspec.convert(known[OBJECTIVE], Objective),
                msgspec.convert(known[results.BASE], BaseNoise),
            )
        with self._failure_noted(study):
            return self._own_base(study, plan, slots)

    @contextlib.contextmanager
    def _failure_noted(self, study: "Study") -> Iterator[None]:
        """Tells workers, who wait for it, that there will be no base. A stop is no failure."""
        if study.user_attrs.get(FAILED) is not None:
            study.set_user_attr(FAILED, None)
        try:
            yield
        except StopStudy:
            raise
        except Exception as error:
            why = error.got if isinstance(error, errors.HarnessError) else repr(error)
            note = {"at": time.time(), "why": why}
            with contextlib.suppress(StoreError), storage.storage_errors(self.url):
                study.set_user_attr(FAILED, note)
            raise

    def _own_base(
        self, study: "Study", plan: SearchPlan, slots: GpuPool
    ) -> tuple[Objective, BaseNoise]:
        """The base as this command measures it, kept for the others."""
        minutes = self.options.max_minutes
        deadline = None if minutes is None else self.command.began + 60 * minutes
        records = base_noise.replicate(plan, slots, self.command.stop, deadline)
        known = study.user_attrs
        if results.BASE in known:  # trials were told by it
            objective = msgspec.convert(known[OBJECTIVE], Objective)
            base = base_noise.noise_of(objective, self.store, records)
            if msgspec.convert(known[results.BASE], BaseNoise).seeds != base.seeds:
                study.set_user_attr(results.BASE, msgspec.to_builtins(base))
            return objective, base
        objective = base_noise.objective_of(plan, self.store, records)
        base = base_noise.noise_of(objective, self.store, records)
        if plan.start is not None:
            study.enqueue_trial(plan.start)
        study.set_user_attr(OBJECTIVE, msgspec.to_builtins(objective))
        study.set_user_attr(results.BASE, msgspec.to_builtins(base))
        return objective, base

    def _attributes_with_base(self, study: "Study") -> dict[str, Any]:
        """What is kept of the search, once its base is.

        Raises StoreError after the patience or once the base has failed, Halt at --max-minutes.
        """
        minutes = self.options.max_minutes
        limit_s = math.inf if minutes is None else 60 * minutes
        while results.BASE not in (known := study.user_attrs):
            if self.command.stop:
                raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
            waited_s = time.monotonic() - self.command.began
            failed = known.get(FAILED)
            lately = failed is not None and failed["at"] >= self.since
            if lately or waited_s >= 60 * self.options.patience_minutes:
                raise StoreError(
                    self.file.search,
                    "a search whose base is replicated",
                    f"a base that failed: {failed['why']}" if failed else "none in this storage",
                    "Start it once without --worker; workers then join it.",
                )
            if waited_s >= limit_s:
                text = "The time is up before there is a base. The same command goes on."
                raise StopStudy(errors.STOPPED_AT_LIMIT, text)
            time.sleep(LOOK_S)
        return known

    def _study(self, plan: SearchPlan, slot: str, evaluations: int) -> "Study":
        """The Optuna study for one worker; each draws by a seed of its own, and never the same."""
        sketch = Objective(names=self.file.objectives)
        known = storage.stored_study(self.opened, self.file.search)
        trials = len(known.get_trials(deepcopy=False)) if known is not None else 0
        own = [self.file.search, self.file.seed, slot, trials]
        seed = int(digest([*own, self.mark] if self.mark else own, 8), 16)
        return storage.open_study(
            self.opened,
            self.file.search,
            sketch.directions,
            plan.fingerprint(),
            storage.sampler_of(self.file.sampler, seed, self.where),
            storage.pruner_of(self.file.pruner, evaluations, self.where),
        )

    # the trials -------------------------------------------------------------------------------

    def _trials(
        self, plan: SearchPlan, slots: GpuPool, objective: Objective, base: BaseNoise
    ) -> str:
        stop = self.command.stop

        def ended(number: int, answer: TrialResult, values: list[float] | None) -> None:
            terminal.say(self.console, terminal.trial_words(number, answer, values))

        crew = WorkerPool(
            lambda slot: self._study(plan, slot, base.evaluations),
            TrialRunner(plan, slots, objective, stop, ended),
            SearchBudget(self.file, base, self.command.began, self.options.max_minutes),
            stop,
            lambda slot: base_noise.still_works(plan, slots, slot, stop),
        )
        return crew.work()

    # the second look --------------------------------------------------------------------------

    def _second_look(self, plan: SearchPlan, reason: str) -> str:
        study = self._study(plan, "", 0)
        base = msgspec.convert(study.user_attrs[results.BASE], BaseNoise)
        trials = study.get_trials(deepcopy=False)
        picks = confirm.pick(
            trials, self.file.objectives, base, self.file.confirm.best, self._base_plan(study)
        )
        if not picks:
            return f"{reason} There is nothing to confirm."
        scale = self.file.confirm.next
        name = confirm.study_name(self.file, confirm.CONFIRM, len(trials), picks)
        lacking = [self._make(plan, name, picks, {})]
        second = confirm.Confirmation(
            picks=picks, trials=len(trials), studies={confirm.CONFIRM: name}, next=scale
        )
        looks = confirm.look(self.store, name, picks, self.file.objectives)
        left = [pick for pick, seen in zip(picks, looks, strict=True) if seen.survives]
        if scale and left:
            further = confirm.study_name(self.file, confirm.NEXT, len(trials), left)
            studies = {**second.studies, confirm.NEXT: further}
            whole = msgspec.structs.replace(second, studies=studies)
            if confirm.kept(study.user_attrs) != whole:
                self._keep(study, second)
            lacking.append(self._make(plan, further, left, scale))
            second = whole
        self._keep(study, second)
        if without := [text for text in lacking if text is not None]:
            raise StopStudy(errors.COULD_NOT_RUN, " ".join(without))
        return reason

    def _keep(self, study: "Study", second: confirm.Confirmation) -> None:
        study.set_user_attr(confirm.SECOND_LOOK, msgspec.to_builtins(second))

    def _make(
        self, plan: SearchPlan, name: str, picks: list[confirm.Pick], scale: dict[str, Any]
    ) -> str | None:
        """Makes a study of candidates to its end, and says which runs have no outcome.

        Raises Halt where it was stopped before.
        """
        terminal.say(self.console, f"looking again at {len(picks)} of the trials: study {name}")
        file = confirm.study_file(self.file, self.path, picks, name, scale)
        line = " ".join(["harness", *redact_argv(sys.argv[1:])])
        study = resolve_study(
            file, self.path, self.store, self.trainer, command=line, now=time.time()
        )
        self.store.save_study(study)
        options = StudyOptions(max_minutes=self.options.max_minutes, gpus=self.options.gpus)
        progress = StudyProgress(self.console)
        executor = Executor(study, self.store, self.trainer, options, progress, self.command)
        outcome = executor.execute()
        if outcome.exit_code == errors.PASS:
            return None
        if outcome.stopped_early or outcome.exit_code != errors.COULD_NOT_RUN:
            raise StopStudy(outcome.exit_code, outcome.reason)
        return outcome.reason

    # telling ----------------------------------------------------------------------------------

    def _base_plan(self, study: "Study") -> str:
        return plan_id(storage.base_of(study), self.file.seed)

    def _report(self, plan: SearchPlan) -> bool:
        """Prints and writes what there is by now; False where there is nothing."""
        study = storage.stored_study(self.opened, self.file.search)
        if study is None:
            return False
        reads = self.options.report_only
        storage.refuse_other(study, plan.fingerprint(), but=ELSEWHERE if reads else ())
        if plan.base.identity.code_id != storage.base_of(study).code_id:
            terminal.say(self.console, "Other code than is here made it: reported as recorded.")
        answer = results.read(study, self.store, self.file, self._base_plan(study), plan.refused)
        if answer is None:
            return False
        terminal.print_found(self.console, answer)
        folder = self.store.report_dir("search", self.file.search)
        written = {"json": folder / "report.json", "csv": folder / "trials.csv"}
        files.write_bytes(written["json"], export.as_json(answer))
        files.write_text(written["csv"], export.as_csv(answer))
        written |= self._patches(plan, answer, folder)
        if self.options.html and importlib.util.find_spec("plotly") is None:
            terminal.say(
                self.console, f"report.html was left out: it needs plotly. To have it: {EXTRA}"
            )
        elif self.options.html:
            from harness.report.search.html import page

            written["html"] = folder / "report.html"
            files.write_text(written["html"], page(answer))
        for kind, path in written.items():
            terminal.say(self.console, f"{kind}: {path}")
        return True

    def _patches(
        self, plan: SearchPlan, answer: results.SearchResult, folder: Path
    ) -> dict[str, Path]:
        """A patch of the base's file for each candidate that survived; older ones are removed."""
        written: dict[str, Path] = {}
        base_file = Path(plan.base_file)
        text = base_file.read_bytes().decode("utf-8")  # with its line ends as they are
        name = patch.relative_name(base_file, self.trainer.checkout)
        studies = {at: self.store.study(study) for at, study in answer.looks.items()}
        seeds = {at: study.seeds for at, study in studies.items()}
        for claim in answer.survivors:
            wanted = patch.changes(
                claim, studies[confirm.CONFIRM].arm(claim.pick.arm), plan.base.config
            )
            comments = patch.evidence(answer, claim, seeds, self.file.set)
            path = folder / f"{claim.pick.arm}.patch"
            try:
                files.write_text(path, patch.diff(text, wanted, comments, name))
            except ReportError as error:
                terminal.say(self.console, f"No patch of {claim.pick.arm}: {error}")
            else:
                written[claim.pick.arm] = path
        for path in folder.glob("trial_*.patch"):
            if path not in written.values():
                path.unlink()
        return written

    def _tell_recovered(self, made: list[Record]) -> None:
        for record in made:
            what = f"{record.launch.arm or record.plan_id}, seed {record.seed}"
            text = f"A killed harness had left {what}; recorded as {record.status}."
            terminal.say(self.console, text)


def changed(file: SearchFile, *, sets: dict[str, Any], price: float | None) -> SearchFile:
    """A search file with what the command line says in place of what the file says."""
    limits = file.limits
    if price is not None:
        limits = msgspec.structs.replace(limits, price=price)
    new = msgspec.structs.replace(file, set={**file.set, **sets}, limits=limits)
    check(new, lambda field: f"command line, in place of {field}")
    return new


def search(
    console: "Console", file: SearchFile, path: Path, store: Store, options: SearchOptions
) -> int:
    """Makes a search, or goes on with it, and reports."""
    return Searching(console, file, path, store, options).run()


def dry_run(console: "Console", file: SearchFile, path: Path, store: Store) -> int:
    """Prints what a search would try, take and see; starts nothing."""
    plan = resolve(file, path, by_name(file.trainer), prepares=False)
    if file.slope_from is not None:
        store.study(file.slope_from)
    terminal.print_plan(console, plan, store.records())
    return errors.PASS
