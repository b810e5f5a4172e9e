"""Arm specifications: what a study file asks for and what the trainer replied about it.

`Expander` turns `leave_one_out`, `add_one_in` and written-out arms into `ArmSpec`s and refuses
those that are impossible. resolve.py describes and pins them, and makes an `Arm` of each.
"""

from collections import Counter
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
from harness.runner.replies import Description
from harness.runner.trainer import NativeTrainer, raise_faults


class ArmSpec(msgspec.Struct, kw_only=True):
    """An arm while it is being resolved: its settings and the trainer's description of them."""

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
    data_paths: dict[str, Any] = {}  # the base's data paths, for code in another checkout
    seeds: list[int] = []  # of a retune arm
    reply: Description | None = None  # None before the trainer has described it

    def overrides(self) -> dict[str, Any]:
        """Every setting beyond the base file."""
        pins = {path: pin.base for path, pin in self.pinned.items()}
        retuned = {path: choice.value for path, choice in self.retuned.items()}
        return {**self.set, **self.data_paths, **pins, **retuned}

    @property
    def description(self) -> Description:
        """The trainer's description; it must have been requested."""
        assert self.reply is not None, f"{self.name} was not described"
        return self.reply

    @property
    def pins(self) -> dict[str, Any]:
        """Derived values that can be pinned, as this arm derives them."""
        return self.description.pins or {}

    @property
    def identity(self) -> Identity:
        """The identity of the arm's configuration, code and data."""
        identity = self.description.identity
        assert identity is not None, f"{self.name} has no identity"
        return Identity(
            config_id=identity.config_id,
            code_id=identity.code_id,
            data_id=identity.data_id,
            protocol=identity.protocol,
        )

    def own_settings(self, base: "ArmSpec") -> Mapping[str, Any]:
        """Settings in which the arm differs from its base on purpose; these are never pinned."""
        return {
            path: value
            for path, value in self.set.items()
            if path not in base.set or base.set[path] != value
        }


class Expander:
    """Expands the arms of a study file."""

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

    def expand(self) -> list[ArmSpec]:
        """The base, then every arm of the file, not described yet."""
        base = ArmSpec(name="base", role="base", set=dict(self.file.set), trainer=self.trainer)
        return [base, *self._toggled(), *self._explicit()]

    def _toggled(self) -> list[ArmSpec]:
        arms = self.file.arms
        requested: list[tuple[Role, str, list[str] | str]] = [
            ("leave_one_out", "no_", arms.leave_one_out),
            ("add_one_in", "with_", arms.add_one_in),
        ]
        specs = []
        for role, prefix, names in requested:
            for trick in self.tricks if names == "all" else names:
                entry = self.trick(trick, role)
                values = entry.off if role == "leave_one_out" else entry.on
                specs.append(
                    ArmSpec(
                        name=prefix + trick,
                        role=role,
                        trick=trick,
                        set={**self.file.set, **values},
                        trainer=self.trainer,
                    )
                )
        return specs

    def trick(self, name: str, field: str) -> TrickInfo:
        """An entry of the catalogue. Raises StudyFileError with the nearest known name."""
        if name not in self.tricks:
            raise StudyFileError(
                f"{self.path}: arms.{field}",
                "tricks of the catalogue: " + ", ".join(self.tricks),
                repr(name),
                nearest(name, self.tricks) or "Use one of these names.",
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
                trainer=self._trainer_of(arm),
            )
            for name, arm in self.file.arms.explicit.items()
        ]

    def _trainer_of(self, arm: ArmFile) -> NativeTrainer:
        checkout = self.trainer.checkout
        if arm.ref is not None:
            return self.trainer.at(worktree.checkout_ref(arm.ref, checkout, self.worktrees))
        if arm.patch is not None:
            patch = self.path.parent / arm.patch
            return self.trainer.at(worktree.checkout_patch(patch, checkout, self.worktrees))
        return self.trainer

    def select(self, specs: list[ArmSpec]) -> list[ArmSpec]:
        """The arms that differ from the base; `all` skips tricks that are already as wanted.

        `specs` are described, the base first. Raises StudyFileError.
        """
        refuse_faults(specs[:1], self.path)
        enabled = specs[0].description.tricks or {}
        selected = [spec for spec in specs if self._differs(spec, enabled)]
        counts = Counter(spec.name for spec in selected)
        if repeated := sorted(name for name, count in counts.items() if count > 1):
            raise StudyFileError(
                f"{self.path}: arms",
                "every arm once",
                f"{', '.join(repeated)} more than once",
                "Remove the repetition.",
            )
        if len(selected) < 2:
            raise StudyFileError(
                f"{self.path}: arms",
                "at least one arm beside the base",
                "none that differs from it",
                "Name tricks that the base uses.",
            )
        return selected

    def _differs(self, spec: ArmSpec, enabled: Mapping[str, bool]) -> bool:
        if spec.role not in ("leave_one_out", "add_one_in") or spec.trick is None:
            return True
        wanted = spec.role == "leave_one_out"
        if enabled.get(spec.trick, False) == wanted:
            return True
        if getattr(self.file.arms, spec.role) == "all":
            return False
        raise StudyFileError(
            f"{self.path}: arms.{spec.role}",
            f"a trick that is {'on' if wanted else 'off'} in the base",
            f"{spec.trick}, which is {'off' if wanted else 'on'} there",
            "Leave it out, or choose another base.",
        )


def refuse_faults(specs: Sequence[ArmSpec], path: Path) -> None:
    """Raises StudyFileError with every error that the trainer found in these arms."""
    faults = [(spec.name, fault) for spec in specs for fault in spec.description.errors]
    raise_faults(faults, str(path))


def refuse_duplicates(specs: Sequence[ArmSpec]) -> None:
    """Raises StudyFileError where two arms are the same configuration of the same code."""
    seen: dict[Identity, str] = {}
    for spec in specs:
        if spec.identity in seen:
            raise StudyFileError(
                f"arms.{spec.name}",
                "arms that differ",
                f"the same configuration and code as {seen[spec.identity]}",
                "Remove one of them: one run would be counted twice.",
            )
        seen[spec.identity] = spec.name
