"""The arms of a study while they are being worked out: what is asked for, what the trainer says.

Expands `leave_one_out`, `add_one_in` and written-out arms into drafts, and refuses those that
cannot be. resolve.py describes and pins the drafts, and makes arms of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.config.study_file import ArmFile, StudyFile
from harness.config.yaml_schema import nearest
from harness.errors import StudyFileError
from harness.results.record import Identity
from harness.results.study_plan import Pin, Retuned, Role, TrickInfo
from harness.runner import worktree
from harness.runner.trainer import Description, NativeTrainer, raise_faults


class ArmSpec(msgspec.Struct, kw_only=True):
    """An arm on its way: what is asked for, and what its trainer says of it."""

    name: str
    role: Role
    set: dict[str, Any]
    trainer: NativeTrainer
    trick: str | None = None
    horizon: float | None = None
    ref: str | None = None
    patch: str | None = None
    pinned: dict[str, Pin] = {}
    retuned: dict[str, Retuned] = {}
    untuned: list[str] = []
    places: dict[str, Any] = {}  # where the base's data lies, for code in another checkout
    seeds: list[int] = []  # of a retune arm
    said: Description | None = None

    def overrides(self) -> dict[str, Any]:
        """All that is set beyond the base file."""
        pins = {path: pin.base for path, pin in self.pinned.items()}
        retuned = {path: one.value for path, one in self.retuned.items()}
        return {**self.set, **self.places, **pins, **retuned}

    @property
    def description(self) -> Description:
        assert self.said is not None, f"{self.name} was not described"
        return self.said

    @property
    def pins(self) -> dict[str, Any]:
        return self.description.pins or {}

    @property
    def identity(self) -> Identity:
        said = self.description.identity
        assert said is not None, f"{self.name} has no identity"
        return Identity(
            config_id=said.config_id,
            code_id=said.code_id,
            data_id=said.data_id,
            protocol=said.protocol,
        )

    def asked(self, base: "ArmSpec") -> Mapping[str, Any]:
        """What an arm sets for itself, which no pin may undo."""
        return {
            path: value
            for path, value in self.set.items()
            if path not in base.set or base.set[path] != value
        }


class Expander:
    """Makes drafts of a study file's arms."""

    def __init__(
        self,
        file: StudyFile,
        path: Path,
        worktrees: Path,
        trainer: NativeTrainer,
        tricks: Mapping[str, TrickInfo],
    ) -> None:
        self.file, self.path, self.worktrees = file, path, worktrees
        self.trainer, self.tricks = trainer, tricks

    def drafts(self) -> list[ArmSpec]:
        """The base, then every arm that the file asks for."""
        base = ArmSpec(name="base", role="base", set=dict(self.file.set), trainer=self.trainer)
        return [base, *self._toggled(), *self._explicit()]

    def _toggled(self) -> list[ArmSpec]:
        found = []
        parts: list[tuple[Role, str, list[str] | str]] = [
            ("leave_one_out", "no_", self.file.arms.leave_one_out),
            ("add_one_in", "with_", self.file.arms.add_one_in),
        ]
        for role, prefix, asked in parts:
            for trick in self.tricks if asked == "all" else asked:
                entry = self.trick(trick, role)
                values = entry.off if role == "leave_one_out" else entry.on
                found.append(
                    ArmSpec(
                        name=prefix + trick,
                        role=role,
                        trick=trick,
                        set={**self.file.set, **values},
                        trainer=self.trainer,
                    )
                )
        return found

    def trick(self, name: str, where: str) -> TrickInfo:
        """An entry of the catalogue. Raises StudyFileError with the nearest known name."""
        if name not in self.tricks:
            raise StudyFileError(
                f"{self.path}: arms.{where}",
                "tricks of the catalogue: " + ", ".join(self.tricks),
                repr(name),
                nearest(name, self.tricks) or "Name one of these.",
            )
        return self.tricks[name]

    def _explicit(self) -> list[ArmSpec]:
        return [
            ArmSpec(
                name=name,
                role="explicit",
                set={**self.file.set, **arm.set},
                ref=arm.ref,
                patch=arm.patch,
                trainer=self._code(arm),
            )
            for name, arm in self.file.arms.explicit.items()
        ]

    def _code(self, arm: ArmFile) -> NativeTrainer:
        if arm.ref is not None:
            return self.trainer.at(
                worktree.checkout_ref(arm.ref, self.trainer.checkout, self.worktrees)
            )
        if arm.patch is not None:
            patch = self.path.parent / arm.patch
            return self.trainer.at(
                worktree.checkout_patch(patch, self.trainer.checkout, self.worktrees)
            )
        return self.trainer

    def kept(self, drafts: list[ArmSpec]) -> list[ArmSpec]:
        """Without the tricks that `all` names and that are as the arm would have them already.

        `drafts` are described, the base first. Raises StudyFileError.
        """
        base = drafts[0]
        refuse_faults(drafts[:1], self.path)
        on = base.description.tricks or {}
        kept = []
        for draft in drafts:
            if draft.role in ("leave_one_out", "add_one_in") and draft.trick is not None:
                wanted = draft.role == "leave_one_out"
                asked = getattr(self.file.arms, draft.role)
                if on.get(draft.trick, False) != wanted:
                    if asked == "all":
                        continue
                    raise StudyFileError(
                        f"{self.path}: arms.{draft.role}",
                        f"a trick that is {'on' if wanted else 'off'} in the base",
                        f"{draft.trick}, which is {'off' if wanted else 'on'} there",
                        "Leave it out, or choose another base.",
                    )
            kept.append(draft)
        names = [draft.name for draft in kept]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or len(kept) < 2:
            raise StudyFileError(
                f"{self.path}: arms",
                "every arm once" if twice else "at least one arm beside the base",
                f"{', '.join(twice)} more than once" if twice else "none that differs from it",
                "Remove the repetition." if twice else "Name tricks that the base has.",
            )
        return kept


def refuse_faults(drafts: Sequence[ArmSpec], path: Path) -> None:
    """Raises StudyFileError with everything that the trainer refuses about them."""
    raise_faults([(d.name, fault) for d in drafts for fault in d.description.errors], str(path))


def refuse_twins(drafts: Sequence[ArmSpec]) -> None:
    """Raises StudyFileError where two arms are one configuration on one code."""
    seen: dict[Identity, str] = {}
    for draft in drafts:
        if draft.identity in seen:
            raise StudyFileError(
                f"arms.{draft.name}",
                "arms that differ",
                f"the same configuration and code as {seen[draft.identity]}",
                "Remove one of them: one run would be counted twice.",
            )
        seen[draft.identity] = draft.name
