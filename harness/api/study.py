"""Studies: load one from a store, run one, attribute its gains to its tricks."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.records import StorePath, html, load_curves, load_records, open_store
from harness.errors import UsageError
from harness.format import plural
from harness.results.record import FINAL_STATUSES
from harness.results.store import Store
from harness.results.study_plan import ResolvedStudy
from harness.study.attribution import attribute
from harness.study.effects import TIME_PARTS, ArmResult
from harness.study.effects import Attribution as AttributionResult

if TYPE_CHECKING:
    import pandas as pd

    from harness.study.executor import StudyListener


@dataclass(frozen=True, kw_only=True, repr=False)
class Study:
    """A stored study: its arms, its planned runs and their results.

    Attributes
    ----------
    store : Path
        The store that holds it.
    plan : ResolvedStudy
        The study as it was fixed before it ran: arms, runs, decision rule, limits.
    """

    store: Path
    plan: ResolvedStudy

    def __repr__(self) -> str:
        arms, runs = plural(len(self.plan.arms), "arm"), plural(len(self.plan.runs), "run")
        return f"<Study {self.name}: {arms}, {runs}>"

    @property
    def name(self) -> str:
        """The name of the study, unique in its store."""
        return self.plan.study

    @property
    def question(self) -> str:
        """The `question` of the study file."""
        return self.plan.question

    @property
    def complete(self) -> bool:
        """Whether every planned run has a result; one that diverged or ran out of memory has."""
        done = {r.plan_id for r in Store(self.store).records() if r.status in FINAL_STATUSES}
        return all(run.plan_id in done for run in self.plan.runs)

    def arms(self) -> "pd.DataFrame":
        """One row an arm: name, role, trick, overrides, parameters, FLOPs a token."""
        import pandas as pd

        rows = [
            {
                "arm": arm.name,
                "role": arm.role,
                "trick": arm.trick,
                "horizon": arm.horizon,
                "overrides": arm.set,
                "untuned": arm.untuned,
                "config_id": arm.identity.config_id,
                "parameters": arm.derived.get("parameters_total"),
                "flops_per_token": arm.derived.get("flops_per_token"),
            }
            for arm in self.plan.arms
        ]
        return pd.DataFrame(rows)

    def records(self) -> "pd.DataFrame":
        """The records of the study's runs, as `load_records` returns them."""
        return load_records(self.store, study=self.name)

    def curves(self) -> "pd.DataFrame":
        """The curves of the study's completed runs, as `load_curves` returns them."""
        return load_curves(self.store, study=self.name)


def load_study(store: StorePath, name: str) -> Study:
    """Load a study from a store.

    Parameters
    ----------
    store : path
        The folder of the store.
    name : str
        The `study:` of the study file.

    Returns
    -------
    Study

    Raises
    ------
    StoreError
        If `store` has no records, or no study of that name; the message lists those it has.

    Examples
    --------
    >>> study = harness.load_study("baselines/published", "speedrun-d8")
    >>> study.arms()[["arm", "role", "parameters"]]
    """
    return Study(store=Path(store), plan=open_store(store).study(name))


def run_study(
    path: StorePath,
    store: StorePath = "runs",
    *,
    overrides: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    name: str | None = None,
    gpus: Sequence[int] = (),
    max_minutes: float | None = None,
    rerun: bool = False,
    listener: "StudyListener | None" = None,
) -> Study:
    """Run a study, or resume it: runs that are recorded are not repeated.

    Parameters
    ----------
    path : path
        A study file, such as ``"ablations/studies/fake.yaml"``.
    store : path, default "runs"
        The folder for runs and records; created when missing.
    overrides : mapping of str to object, optional
        Settings for every arm, such as ``{"dial.depth": 8}``, over those of the file's `set`.
    seeds : sequence of int, optional
        In place of the seeds of the file.
    name : str, optional
        In place of the name of the file.
    gpus : sequence of int, optional
        Run one single-GPU run at a time on each. By default one run at a time.
    max_minutes : float, optional
        Stop at a run boundary before this many minutes.
    rerun : bool, default False
        Repeat runs that diverged or ran out of memory.
    listener : harness.study.executor.StudyListener, optional
        Receives progress: `run_started`, `run_ended`, `message` and the other methods of that
        protocol, which may be called from several threads.

    Returns
    -------
    Study
        With `complete` False, and a UserWarning that gives the reason, where runs are missing: at a
        limit, or because they failed. Call again to resume.

    Raises
    ------
    StudyFileError
        If the study file is wrong; the message names the line and the nearest valid key.
    TrainerError
        If the trainer is missing or breaks the contract.
    StoreError
        If another process runs this study in this store.

    Examples
    --------
    >>> study = harness.run_study("ablations/studies/fake.yaml", seeds=[1, 2])
    >>> harness.attribution(study)
    """
    from harness.config.study_file import load_study as read_file
    from harness.study import run
    from harness.study.executor import StudyOptions

    file = run.with_overrides(
        read_file(Path(path)),
        name=name,
        seeds=list(seeds) if seeds else None,
        sets=dict(overrides or {}),
    )
    searches = any(sweep.space for sweep in file.arms.retune.values())
    result = run.run_study(
        file,
        Path(path),
        Store(Path(store)),
        StudyOptions(rerun=rerun, max_minutes=max_minutes, gpus=[str(gpu) for gpu in gpus]),
        listener,
        fill_sweeps=_search_sweeps if searches else None,
        command_line=f"harness.run_study({os.fspath(path)!r})",
    )
    study = Study(store=Path(store), plan=result.study)
    if not study.complete:
        warnings.warn(f"study {study.name}: {result.reason}", stacklevel=2)
    return study


def _search_sweeps(*study: Any) -> object:
    """Fills the sweeps that have a `space` by a search, which needs Optuna."""
    from harness.search.engine import SearchListener
    from harness.search.sweep_search import fill

    return fill(SearchListener(), *study)


COLUMNS = (
    *("metric", "unit", "scale", "n_base", "n_arm", "base_mean", "arm_mean", "estimate", "low"),
    *("high", "se", "df", "p", "margin", "minimum_detectable", "outside", "outcome", "rule"),
    *("beyond", "reason"),
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Attribution:
    """What each arm of a study changes against the base. `result` has every computed value."""

    result: AttributionResult

    def to_frame(self) -> "pd.DataFrame":
        """One row for each arm and metric.

        Returns
        -------
        pandas.DataFrame
            `study`, `arm`, `role`, `trick`, `change` (removed, added or changed), `metric`, then
            the effect: `unit`, `scale` (of `log` effects, estimates are natural logarithms),
            `n_base`, `n_arm`, `base_mean`, `arm_mean`, `estimate` (arm minus base), `low`, `high`
            (the interval that `rule` names, corrected for the number of arms), `se`, `df`, `p`,
            `margin`, `minimum_detectable`, `outcome` (pass, regression or inconclusive, where the
            metric has a margin), `beyond` (the limit that an effect outside the measured range
            exceeds), and `reason`: why a number or a decision is absent. The change of time to the
            base's final loss has the metrics `time_quality`, `time_speed` and `time_total`, whose
            logarithms add up.
        """
        import pandas as pd

        return pd.DataFrame([row for arm in self.result.arms for row in self._rows(arm)])

    def _rows(self, arm: ArmResult) -> list[dict[str, Any]]:
        effects = list(arm.effects.values())
        if arm.time_to_target:
            effects += [getattr(arm.time_to_target, part) for part in TIME_PARTS]
        head: dict[str, Any] = {"study": self.result.study, "arm": arm.name, "role": arm.role}
        head |= {"trick": arm.trick, "change": arm.change}
        return [{**head, **{name: getattr(one, name) for name in COLUMNS}} for one in effects]

    def __repr__(self) -> str:
        arms = plural(len(self.result.arms), "arm")
        return f"<Attribution of the study {self.result.study}: {arms}>"

    def _repr_html_(self) -> str:
        """The effects as a table, for notebooks."""
        columns = ["arm", "metric", "n_base", "n_arm", "estimate", "low", "high"]
        return html(
            f"{self.result.study}: {self.result.question}",
            self.to_frame()[[*columns, "minimum_detectable"]],
        )


def attribution(study: Study) -> Attribution:
    """Attribute the gains of a study to its tricks.

    Parameters
    ----------
    study : Study
        From `load_study` or `run_study`; it need not be complete.

    Returns
    -------
    Attribution
        ``.to_frame()`` has one row for each arm and metric, ``.result`` everything that
        `harness report --json` writes under `attribution`.

    Raises
    ------
    UsageError
        If `study` is something else, such as the name of a study.

    Examples
    --------
    >>> study = harness.load_study("baselines/published", "speedrun-d8")
    >>> effects = harness.attribution(study).to_frame()
    >>> effects[effects["metric"] == "val_bpb"][["arm", "estimate", "low", "high"]]
    """
    if not isinstance(study, Study):
        hint = "Load it first: harness.attribution(harness.load_study(STORE, NAME))."
        raise UsageError("attribution", "a Study of load_study or run_study", repr(study), hint)
    return Attribution(result=attribute(study.plan, Store(study.store).records()))
