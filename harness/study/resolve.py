"""From a study file to a `ResolvedStudy`: every arm described, pinned, and given its identity.

The trainer is asked in batches and knows all fields; this file only carries overrides between its
answers. An arm differs from its base in its trick and in nothing that follows from it by rule: what
the base derived (steps, batch, ...) is handed to every arm. Comes after the store, because a
sweep's choice is read from its records, and before anything runs.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.config.study_file import RetuneFile, StudyFile
from harness.config.yaml_schema import nearest
from harness.errors import StoreError, StudyFileError, TrainerError
from harness.results import study_plan as arms_module
from harness.results.record import FINAL_STATUSES
from harness.results.store import Store
from harness.results.study_plan import Arm, Pin, ResolvedStudy, TrickInfo
from harness.runner.trainer import NativeTrainer, Request
from harness.study import sweep
from harness.study.arms import ArmSpec, Expander, refuse_faults, refuse_twins


class Resolver:
    """One resolution of one study file."""

    def __init__(
        self,
        file: StudyFile,
        path: Path,
        store: Store,
        trainer: NativeTrainer,
        *,
        final: bool,
        prepares: bool,
    ) -> None:
        self.file, self.path, self.store, self.trainer = file, path, store, trainer
        self.prepares = prepares
        self.final = final  # sweeps are over: choose from what they gave, even if some runs failed
        found = trainer.catalogue()
        self.settable_fields = found.settable_fields
        self.tricks = {
            name: msgspec.convert(entry, TrickInfo) for name, entry in found.tricks.items()
        }
        self.expander = Expander(file, path, store.root, trainer, self.tricks)
        self.base_file = str((path.parent / file.base).resolve())
        if not Path(self.base_file).is_file():
            near = nearest(
                Path(file.base).name, [p.name for p in Path(self.base_file).parent.glob("*.yaml")]
            )
            raise StudyFileError(
                f"{path}: base",
                "a configuration file, relative to the study file",
                f"no file {self.base_file}",
                near or "Name an existing file, such as configs/speedrun.yaml.",
            )

    def arms(self) -> tuple[list[Arm], dict[str, list[int]]]:
        """All arms, the base first; and the seeds of every arm that belongs to a sweep."""
        drafts = self.expander.drafts()
        self._describe(drafts)
        drafts, base = self.expander.kept(drafts), drafts[0]
        refuse_faults(drafts, self.path)
        self._place(base, drafts)
        if self.prepares:
            self._prepare(drafts)
        if self.file.pin == "derived":
            self._pin(base, drafts)
        sweeps = self._sweeps(drafts)
        horizons = self._horizons(base)
        refuse_twins(drafts)
        everything = [*drafts, *horizons, *sweeps]
        return [self._arm(draft) for draft in everything], {d.name: d.seeds for d in sweeps}

    # describing -------------------------------------------------------------------------------

    def _describe(self, drafts: Sequence[ArmSpec]) -> None:
        """Asks the trainer about all drafts, once for each checkout of its code."""
        for checkout in {draft.trainer.checkout: None for draft in drafts}:
            here = [draft for draft in drafts if draft.trainer.checkout == checkout]
            requests = [
                Request(name=draft.name, base=self.base_file, set=draft.overrides())
                for draft in here
            ]
            for draft, said in zip(here, here[0].trainer.describe(requests), strict=True):
                draft.said = said

    def _place(self, base: ArmSpec, drafts: Sequence[ArmSpec]) -> None:
        """Relative paths mean another folder in another checkout: those arms get the base's."""
        moved = [draft for draft in drafts if draft.trainer.checkout != base.trainer.checkout]
        for draft in moved:
            asked = [f"{path}." for path in draft.asked(base)]
            draft.places = {
                path: value
                for path, value in base.description.places.items()
                if not any(f"{path}.".startswith(own) for own in asked)
            }
        self._describe(moved)

    def _prepare(self, drafts: Sequence[ArmSpec]) -> None:
        """Makes the data of every draft ready, so that its data_id is known."""

        def unready() -> list[ArmSpec]:
            return [
                draft
                for draft in drafts
                if draft.description.identity is None or draft.description.identity.data_id is None
            ]

        while waiting := unready():
            before = len(waiting)
            waiting[0].trainer.prepare(waiting[0].description.config or {})
            self._describe(drafts)
            if len(unready()) >= before:
                raise TrainerError(
                    "",
                    f"a data_id for {waiting[0].name} after `data prepare`",
                    "null",
                    "The trainer prepared data that it then does not find: "
                    "check its cache folder's place and permissions.",
                )

    # fair arms --------------------------------------------------------------------------------

    def _pin(self, base: ArmSpec, drafts: Sequence[ArmSpec]) -> None:
        changed = []
        for draft in drafts:
            own = draft.pins
            draft.pinned = {
                path: Pin(base=value, own=own[path])
                for path, value in base.pins.items()
                if path in own and own[path] != value and path not in draft.asked(base)
            }
            if draft.pinned:
                changed.append(draft)
        if not changed:
            return
        self._describe(changed)
        refuse_faults(changed, self.path)
        for draft in changed:
            for path, pin in draft.pinned.items():
                if draft.pins.get(path) != pin.base:
                    raise TrainerError(
                        f"arm {draft.name}: {path}",
                        f"{pin.base!r}, as the base derived it",
                        repr(draft.pins.get(path)),
                        "The trainer's pins do not reproduce its derived values.",
                    )

    def _horizons(self, base: ArmSpec) -> list[ArmSpec]:
        wanted = [h for h in self.file.horizon_list() if h != 1]
        if not wanted:
            return []
        if "steps" not in self.settable_fields:
            raise StudyFileError(
                f"{self.path}: horizons",
                "a trainer whose number of steps may be set",
                "none in its settable_fields",
                "Remove `horizons`; the study then has no time-to-target.",
            )
        steps = (base.description.derived or {})["steps"]
        found = [
            ArmSpec(
                name=f"base@{horizon:g}",
                role="horizon",
                horizon=horizon,
                set={**base.set, self.settable_fields["steps"]: max(1, round(horizon * steps))},
                trainer=self.trainer,
            )
            for horizon in wanted
        ]
        self._describe(found)
        refuse_faults(found, self.path)
        self._pin(base, found)
        return found

    def _sweeps(self, drafts: Sequence[ArmSpec]) -> list[ArmSpec]:
        """The retune arms; where their choice is due, it is written into the arms they are for."""
        found: list[ArmSpec] = []
        for trick, grid in self.file.arms.retune.items():
            self.expander.trick(trick, "retune")
            swept = [draft for draft in drafts if draft.trick == trick]
            if not swept:
                raise StudyFileError(
                    f"{self.path}: arms.retune.{trick}",
                    "an arm that switches the trick",
                    "none",
                    f"Add {trick} to leave_one_out, or remove the sweep.",
                )
            for draft in swept:
                found += self._sweep(draft, grid)
        for draft in drafts:
            if draft.role == "leave_one_out" and draft.trick is not None:
                wanted = self.tricks[draft.trick].retune
                draft.untuned = [path for path in wanted if path not in draft.retuned]
        return found

    def _sweep(self, draft: ArmSpec, grid: RetuneFile) -> list[ArmSpec]:
        settings = sweep.combinations(grid)
        if grid.space:
            name = sweep.search_name(self.file.study, draft.trick or "")
            settings = self.store.found_settings(name)
        points = [
            ArmSpec(
                name=sweep.arm_name(draft.name, draft.trick or "", chosen),
                role="retune",
                trick=draft.trick,
                set={**draft.set, **chosen},
                pinned=draft.pinned,
                seeds=grid.seeds,
                trainer=draft.trainer,
            )
            for chosen in settings
        ]
        self._describe(points)
        refuse_faults(points, self.path)
        results, all_ended = [], bool(points)
        for chosen, point in zip(settings, points, strict=True):
            ended = [self._result(point, seed) for seed in grid.seeds]
            all_ended = all_ended and all(was for was, _ in ended)
            results.append((chosen, [value for _, value in ended]))
        if all_ended or self.final:
            draft.retuned = sweep.choose(grid, results)
            self._describe([draft])
            refuse_faults([draft], self.path)
        return points

    def _result(self, point: ArmSpec, seed: int) -> tuple[bool, float | None]:
        """(whether that run has an outcome, its val_bpb)."""
        attempts = self.store.attempts(arms_module.plan_id(point.identity, seed))
        outcomes = [made for made in attempts if made.status in FINAL_STATUSES]
        completed = [made for made in outcomes if made.status == "completed"]
        return bool(outcomes), completed[0].metrics.get("val_bpb") if completed else None

    def _arm(self, draft: ArmSpec) -> Arm:
        said = draft.description
        return Arm(
            name=draft.name,
            role=draft.role,
            trick=draft.trick,
            horizon=draft.horizon,
            base=self.base_file,
            set=draft.set,
            pinned=draft.pinned,
            retuned=draft.retuned,
            untuned=draft.untuned,
            ref=draft.ref,
            patch=draft.patch,
            checkout=str(draft.trainer.checkout),
            config=said.config or {},
            derived=said.derived or {},
            tricks=said.tricks or {},
            identity=draft.identity,
        )


def resolve(
    file: StudyFile,
    path: Path,
    store: Store,
    trainer: NativeTrainer,
    *,
    command: str,
    now: float,
    final: bool = False,
    prepares: bool = True,
) -> ResolvedStudy:
    """Answers every question of a study. A stored study of the same name is extended, or refused.

    `final`: its sweeps are over. `prepares`: makes data ready, so that every run has its plan_id;
    without it a study can be planned where there is neither data nor torch. Raises StudyFileError,
    TrainerError, StoreError.
    """
    stored = store.study(file.study) if store.study_path(file.study).exists() else None
    seeds = list(dict.fromkeys([*(stored.seeds if stored else []), *file.seeds]))
    for trick, grid in file.arms.retune.items():
        if shared := sorted(set(grid.seeds) & set(seeds)):
            raise StudyFileError(
                f"{path}: arms.retune.{trick}.seeds",
                "seeds of its own, apart from the study's",
                f"{shared} in both",
                "A choice and its verdict on the same seeds flatter the arm: use others.",
            )
    resolver = Resolver(file, path, store, trainer, final=final, prepares=prepares)
    arms, sweeps = resolver.arms()
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
        runs=arms_module.planned_runs(file.study, arms, seeds, sweeps),
        tricks=resolver.tricks,
        settable_fields=resolver.settable_fields,
        command=command,
        created_at=stored.created_at if stored else now,
        source=str(path),
    )
    if stored is not None and (found := arms_module.differences(stored, study)):
        shown = "; ".join(found[:4]) + (", ..." if found[4:] else "")
        raise StoreError(
            str(store.study_path(file.study)),
            f"the study {file.study!r} as it is stored",
            f"another of the same name: {shown}",
            "Give this one another name with --name, or another --store.",
        )
    return study
