"""Resolves a study file into a `ResolvedStudy`: every arm described, pinned and identified.

The trainer knows all configuration fields; this file passes overrides to it and keeps its replies.
An arm differs from its base in its trick and in nothing that follows from the trick by rule: the
values that the base derives (steps, batch, ...) are pinned in every arm. The choice of a `retune`
sweep is read from the records in the store.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from harness.config.study_file import RetuneFile, StudyFile
from harness.config.yaml_schema import nearest
from harness.errors import StoreError, StudyFileError, TrainerError
from harness.results.record import FINAL_STATUSES
from harness.results.store import Store
from harness.results.study_plan import (
    Arm,
    Pin,
    ResolvedStudy,
    TrickInfo,
    differences,
    plan_id,
    planned_runs,
)
from harness.runner.replies import Request
from harness.runner.trainer import NativeTrainer
from harness.study import sweep
from harness.study.arms import ArmSpec, Expander, refuse_duplicates, refuse_faults

MOST_DIFFERENCES = 4  # listed in an error message


def resolve(
    file: StudyFile,
    path: Path,
    store: Store,
    trainer: NativeTrainer,
    *,
    command: str,
    now: float,
    sweeps_finished: bool = False,
    prepare_data: bool = True,
) -> ResolvedStudy:
    """Resolves every arm and run of a study; a stored study of the same name is extended.

    `command`: the command line, stored for the report. `sweeps_finished`: choose from the sweeps
    even where some of their runs failed. `prepare_data`: prepare missing data, so that every run
    has its plan_id; without it a study can be planned where there is neither data nor torch.
    Raises StudyFileError, TrainerError, and StoreError where the stored study is another one.
    """
    stored = store.study(file.study) if store.study_path(file.study).exists() else None
    seeds = list(dict.fromkeys([*(stored.seeds if stored else []), *file.seeds]))
    _refuse_shared_seeds(file, path, seeds)
    resolver = Resolver(
        file, path, store, trainer, sweeps_finished=sweeps_finished, prepare_data=prepare_data
    )
    arms, sweep_seeds = resolver.arms()
    study = ResolvedStudy(
        study=file.study,
        question=file.question,
        trainer=trainer.name,
        pin=file.pin,
        seeds=seeds,
        horizons=file.horizon_list(),
        decide=file.decide,
        limits=file.limits,
        arms=arms,
        runs=planned_runs(file.study, arms, seeds, sweep_seeds),
        tricks=resolver.tricks,
        settable_fields=resolver.settable_fields,
        command=command,
        created_at=stored.created_at if stored else now,
        source=str(path),
    )
    if stored is not None:
        _refuse_other_study(stored, study, store)
    return study


def _refuse_other_study(stored: ResolvedStudy, study: ResolvedStudy, store: Store) -> None:
    if changes := differences(stored, study):
        more = ", ..." if changes[MOST_DIFFERENCES:] else ""
        raise StoreError(
            str(store.study_path(study.study)),
            f"the study {study.study!r} as it is stored",
            f"a different study of this name: {'; '.join(changes[:MOST_DIFFERENCES])}{more}",
            "Give this study another name with --name, or use another --store.",
        )


def _refuse_shared_seeds(file: StudyFile, path: Path, seeds: Sequence[int]) -> None:
    for trick, grid in file.arms.retune.items():
        if shared := sorted(set(grid.seeds) & set(seeds)):
            raise StudyFileError(
                f"{path}: arms.retune.{trick}.seeds",
                "seeds that the study does not use",
                f"{shared} in both",
                "Use other seeds: settings chosen on the seeds of the comparison look too good.",
            )


class Resolver:
    """Resolves the arms of one study file."""

    def __init__(
        self,
        file: StudyFile,
        path: Path,
        store: Store,
        trainer: NativeTrainer,
        *,
        sweeps_finished: bool,
        prepare_data: bool,
    ) -> None:
        self.file, self.path, self.store, self.trainer = file, path, store, trainer
        self.sweeps_finished, self.prepare_data = sweeps_finished, prepare_data
        catalogue = trainer.catalogue()
        self.settable_fields = catalogue.settable_fields
        self.tricks = {
            name: msgspec.convert(entry, TrickInfo) for name, entry in catalogue.tricks.items()
        }
        self.expander = Expander(file, path, store.root, trainer, self.tricks)
        self.base_file = self._base_file()

    def _base_file(self) -> str:
        base = (self.path.parent / self.file.base).resolve()
        if not base.is_file():
            known = [path.name for path in base.parent.glob("*.yaml")]
            raise StudyFileError(
                f"{self.path}: base",
                "a configuration file, relative to the study file",
                f"no file {base}",
                nearest(base.name, known)
                or "Name an existing file, such as configs/speedrun.yaml.",
            )
        return str(base)

    def arms(self) -> tuple[list[Arm], dict[str, list[int]]]:
        """All arms, the base first; and the seeds of every arm that belongs to a sweep."""
        specs = self.expander.expand()
        self._describe(specs)
        specs, base = self.expander.select(specs), specs[0]
        refuse_faults(specs, self.path)
        self._use_data_of_base(base, specs)
        if self.prepare_data:
            self._prepare(specs)
        if self.file.pin == "derived":
            self._pin(base, specs)
        sweeps = self._sweeps(specs)
        horizons = self._horizons(base)
        refuse_duplicates(specs)
        arms = [self._arm(spec) for spec in (*specs, *horizons, *sweeps)]
        return arms, {spec.name: spec.seeds for spec in sweeps}

    # describing -------------------------------------------------------------------------------

    def _describe(self, specs: Iterable[ArmSpec]) -> None:
        """Has the trainer describe these arms: one call for each checkout of its code."""
        by_checkout: dict[Path, list[ArmSpec]] = {}
        for spec in specs:
            by_checkout.setdefault(spec.trainer.checkout, []).append(spec)
        for group in by_checkout.values():
            requests = [
                Request(name=spec.name, base=self.base_file, set=spec.overrides()) for spec in group
            ]
            for spec, reply in zip(group, group[0].trainer.describe(requests), strict=True):
                spec.reply = reply

    def _use_data_of_base(self, base: ArmSpec, specs: Sequence[ArmSpec]) -> None:
        """Gives arms in another checkout the base's data: relative paths differ there."""
        moved = [spec for spec in specs if spec.trainer.checkout != base.trainer.checkout]
        for spec in moved:
            own = [f"{path}." for path in spec.own_settings(base)]
            spec.data_paths = {
                path: value
                for path, value in base.description.data_paths.items()
                if not any(f"{path}.".startswith(prefix) for prefix in own)
            }
        self._describe(moved)

    def _prepare(self, specs: Sequence[ArmSpec]) -> None:
        """Prepares the data of every arm, so that its data_id is known."""

        def unprepared() -> list[ArmSpec]:
            return [
                spec
                for spec in specs
                if spec.description.identity is None or spec.description.identity.data_id is None
            ]

        while waiting := unprepared():
            waiting[0].trainer.prepare(waiting[0].description.config or {})
            self._describe(specs)
            if len(unprepared()) >= len(waiting):
                raise TrainerError(
                    "",
                    f"a data_id for {waiting[0].name} after `data prepare`",
                    "null",
                    "The trainer does not find the data that it prepared: check the location "
                    "and the permissions of its cache folder.",
                )

    # comparability of arms --------------------------------------------------------------------

    def _pin(self, base: ArmSpec, specs: Sequence[ArmSpec]) -> None:
        """Sets every value that an arm would derive differently to the value of the base."""
        for spec in specs:
            own, chosen = spec.pins, spec.own_settings(base)
            spec.pinned = {
                path: Pin(base=value, own=own[path])
                for path, value in base.pins.items()
                if path in own and own[path] != value and path not in chosen
            }
        changed = [spec for spec in specs if spec.pinned]
        self._describe(changed)
        refuse_faults(changed, self.path)
        for spec in changed:
            for path, pin in spec.pinned.items():
                if spec.pins.get(path) != pin.base:
                    raise TrainerError(
                        f"arm {spec.name}: {path}",
                        f"{pin.base!r}, as the base derived it",
                        repr(spec.pins.get(path)),
                        "Repair the trainer: setting the pins does not set its derived values.",
                    )

    def _horizons(self, base: ArmSpec) -> list[ArmSpec]:
        """The base with its number of steps scaled by each horizon other than 1."""
        horizons = [horizon for horizon in self.file.horizon_list() if horizon != 1]
        if not horizons:
            return []
        if "steps" not in self.settable_fields:
            raise StudyFileError(
                f"{self.path}: horizons",
                "a trainer whose number of steps can be set",
                "a trainer without a settable field for it",
                "Remove `horizons`; the study then reports no time-to-target.",
            )
        steps, field = (base.description.derived or {})["steps"], self.settable_fields["steps"]
        specs = [
            ArmSpec(
                name=f"base@{horizon:g}",
                role="horizon",
                horizon=horizon,
                set={**base.set, field: max(1, round(horizon * steps))},
                trainer=self.trainer,
            )
            for horizon in horizons
        ]
        self._describe(specs)
        refuse_faults(specs, self.path)
        self._pin(base, specs)
        return specs

    # sweeps -----------------------------------------------------------------------------------

    def _sweeps(self, specs: Sequence[ArmSpec]) -> list[ArmSpec]:
        """The retune arms. A finished sweep's choice is written into the arm it belongs to."""
        points: list[ArmSpec] = []
        for trick, grid in self.file.arms.retune.items():
            self.expander.trick(trick, "retune")
            swept = [spec for spec in specs if spec.trick == trick]
            if not swept:
                raise StudyFileError(
                    f"{self.path}: arms.retune.{trick}",
                    "an arm that switches the trick",
                    "none",
                    f"Add {trick} to leave_one_out, or remove the sweep.",
                )
            for spec in swept:
                points += self._sweep(spec, grid)
        for spec in specs:
            if spec.role == "leave_one_out" and spec.trick is not None:
                fields = self.tricks[spec.trick].retune
                spec.untuned = [path for path in fields if path not in spec.retuned]
        return points

    def _sweep(self, spec: ArmSpec, grid: RetuneFile) -> list[ArmSpec]:
        trick = spec.trick or ""
        if grid.space:
            settings = self.store.found_settings(sweep.search_name(self.file.study, trick))
        else:
            settings = sweep.combinations(grid)
        points = [
            ArmSpec(
                name=sweep.arm_name(spec.name, trick, point),
                role="retune",
                trick=spec.trick,
                set={**spec.set, **point},
                pinned=spec.pinned,
                seeds=grid.seeds,
                trainer=spec.trainer,
            )
            for point in settings
        ]
        self._describe(points)
        refuse_faults(points, self.path)
        runs = [[self._result(point, seed) for seed in grid.seeds] for point in points]
        finished = bool(points) and all(has_outcome for row in runs for has_outcome, _ in row)
        if finished or self.sweeps_finished:
            values = [[value for _, value in row] for row in runs]
            spec.retuned = sweep.choose(grid, list(zip(settings, values, strict=True)))
            self._describe([spec])
            refuse_faults([spec], self.path)
        return points

    def _result(self, point: ArmSpec, seed: int) -> tuple[bool, float | None]:
        """(whether the run has an outcome, its val_bpb)."""
        attempts = self.store.attempts(plan_id(point.identity, seed))
        outcomes = [record for record in attempts if record.status in FINAL_STATUSES]
        completed = [record for record in outcomes if record.status == "completed"]
        return bool(outcomes), completed[0].metrics.get("val_bpb") if completed else None

    def _arm(self, spec: ArmSpec) -> Arm:
        description = spec.description
        return Arm(
            name=spec.name,
            role=spec.role,
            trick=spec.trick,
            horizon=spec.horizon,
            base=self.base_file,
            set=spec.set,
            pinned=spec.pinned,
            retuned=spec.retuned,
            untuned=spec.untuned,
            ref=spec.ref,
            patch=spec.patch,
            checkout=str(spec.trainer.checkout),
            config=description.config or {},
            derived=description.derived or {},
            tricks=description.tricks or {},
            identity=spec.identity,
        )
