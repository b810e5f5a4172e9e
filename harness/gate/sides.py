"""Prepares the two sides of a gate: checks them out, describes them, and makes sure that they are
comparable before anything runs.

A side is a checkout with the configuration that runs on it. The candidate may be another git ref,
have other settings, or both. It is compared with a stored baseline, with another ref, or with the
same code without those settings.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.errors import UsageError
from harness.gate import ab_mode, baseline, history
from harness.gate.ab_interleaved import AbMode
from harness.gate.ab_mode import AbChoice, MemoryEstimate
from harness.gate.request import GateRequest, check_request
from harness.gate.result import SideIdentity
from harness.results.recipe import NoiseScope, device_name, noise_scope, scale_from_derived
from harness.results.store import Store
from harness.runner import environment, replicates, sandbox, worktree
from harness.runner.replicates import Recipe
from harness.runner.trainer import NativeTrainer, by_name

Report = Callable[[str], None]  # receives a line of progress


class GateSide(msgspec.Struct, frozen=True, kw_only=True):
    """A checkout with the configuration that runs on it. `notes`: about its packages."""

    trainer: NativeTrainer
    recipe: Recipe
    identity: SideIdentity
    notes: list[str] = []


class PreparedGate(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides, described and comparable. `a` is None where speed is not compared.

    `evaluator`: the base's code with the candidate's settings, where it evaluates checkpoints.
    `ab`: the mode of the launches. `bench`: recipe and device, which select the noise model's rows.
    """

    request: GateRequest
    a: GateSide | None
    b: GateSide
    key: str
    bench: NoiseScope
    ab: AbChoice | None = None
    evaluator: GateSide | None = None

    @property
    def same_code(self) -> bool:
        """Both sides have the same code and configuration (A/A)."""
        ids = {(one.identity.code_id, one.identity.config_id) for one in (self.a, self.b) if one}
        return self.a is not None and len(ids) == 1

    @property
    def mode(self) -> AbMode:
        """The mode of the launches."""
        return self.ab.mode if self.ab is not None else "interleaved"

    @property
    def notes(self) -> list[str]:
        """What the report prints about the sides."""
        return [*(self.a.notes if self.a is not None else []), *self.b.notes]

    @property
    def compares_quality(self) -> bool:
        """With a baseline, or with a base ref, of which runs are made like the candidate's.

        A refactoring has to keep every loss equal, so it needs no replicates.
        """
        has_reference = self.request.baseline is not None or self.request.base is not None
        return has_reference and self.request.claim != "refactor"

    @property
    def reference(self) -> SideIdentity:
        """Side A of the result: the base ref, else the stored baseline."""
        if self.a is not None:
            return self.a.identity
        assert self.request.baseline is not None
        stored = self.request.baseline.now.identity
        return SideIdentity(
            code_id=stored.code_id,
            config_id=stored.config_id,
            baseline=self.request.baseline.place,
        )


def prepare(request: GateRequest, store: Store, report: Report = lambda _: None) -> PreparedGate:
    """Checks out and describes both sides. `report` receives progress, such as installations.

    Raises UsageError, BaselineError, StudyFileError and TrainerError.
    """
    check_request(request)
    entry = request.baseline.now if request.baseline else None
    trainer = by_name(entry.trainer if entry else request.trainer)
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        file = request.config
        if entry is not None:
            file = Path(folder) / "baseline.json"
            files.write_json(file, entry.config)
        assert file is not None
        make = _SideFactory(request, trainer, file, store, report)
        b = make.side("candidate", request.head, {**request.set, **request.candidate_set})
        a = None
        if request.base is not None or request.candidate_set:
            ref = request.base if request.base is not None else request.head
            a = make.side("base", ref, request.set)
        evaluator = None
        if request.evaluate_with == "base":
            settings = {**request.set, **request.candidate_set}
            evaluator = make.side("base", request.base or ".", settings)
    for other in (a, evaluator):
        _check_comparable(request, other, b)
    prepared = PreparedGate(
        request=request,
        a=a,
        b=b,
        key="",
        bench=_bench(request, b),
        ab=_choose_mode(a, b, request, store) if a is not None else None,
        evaluator=evaluator,
    )
    rule: list[object] = [request.claim, request.alpha, sorted(request.margins.items())]
    rule += [request.rule] if request.rule == "always_valid" else []
    rule += ["evaluated by the base"] if evaluator is not None else []
    key = history.key_of(prepared.reference, b.identity, rule)
    return msgspec.structs.replace(prepared, key=key)


class _SideFactory:
    """Makes the sides of one gate: they share trainer, configuration file and store."""

    def __init__(
        self,
        request: GateRequest,
        trainer: NativeTrainer,
        file: Path,
        store: Store,
        report: Report,
    ) -> None:
        self.request, self.trainer, self.file = request, trainer, file
        self.store, self.report = store, report

    def side(self, role: str, ref: str | None, sets: Mapping[str, Any]) -> GateSide:
        """The side of a git ref, or of the present code for None and "."."""
        trainer, notes = self.trainer, list[str]()
        if ref not in (None, "."):
            trainer, notes = self._checked_out(str(ref))
        if self.request.sandbox:
            trainer = trainer.inside(sandbox.of_side(self.store.root, role, trainer.checkout))
        file = str(self.file.resolve())
        label = "the present code" if ref in (None, ".") else ref
        recipe = replicates.describe_recipe(trainer, label, file, sets)
        stored = self.request.baseline
        identity = SideIdentity(
            code_id=recipe.identity.code_id,
            config_id=recipe.identity.config_id,
            ref=ref or ".",
            commit=worktree.clean_commit(trainer.checkout),
            baseline=stored.place if stored else None,
            set=dict(sets),
        )
        return GateSide(trainer=trainer, recipe=recipe, identity=identity, notes=notes)

    def _checked_out(self, ref: str) -> tuple[NativeTrainer, list[str]]:
        """The trainer at `ref`, with the packages that it requires or, with --env current, with the
        installed ones."""
        checkout = worktree.checkout_ref(ref, self.trainer.checkout, self.store.root)
        requirements = environment.compare_requirements(ref, self.trainer, checkout)
        if not requirements.differing:
            return self.trainer.at(checkout), []
        if self.request.env is None:
            raise environment.requirements_error(requirements)
        if self.request.env == "current":
            note = f"{ref} requires other packages and runs with the installed ones (--env current)"
            return self.trainer.at(checkout), [f"{note}: {'; '.join(requirements.differing)}"]
        python = environment.isolated_python(
            requirements, self.store.root / "environments", self.report
        )
        versions = (
            "; ".join(environment.version_differences(requirements, python)) or "the same versions"
        )
        note = f"{ref} runs in an isolated environment, {python.parent.parent.name}: {versions}"
        return self.trainer.at(checkout, python), [note]


def _bench(request: GateRequest, b: GateSide) -> NoiseScope:
    """From the baseline's records; without one, from what the candidate's trainer reports."""
    if request.baseline is not None:
        return noise_scope(request.baseline.now.records[0])
    scale = scale_from_derived(b.trainer.name, b.recipe.derived)
    return NoiseScope(scale=scale, device=device_name(b.trainer.machine()))


def _choose_mode(a: GateSide, b: GateSide, request: GateRequest, store: Store) -> AbChoice:
    """By the memory that earlier launches of these configurations used, else by estimates."""
    stored = history.load(store)
    used = [history.reserved_memory(stored, side.identity.config_id) for side in (a, b)]
    if used[0] is not None and used[1] is not None:
        memory = MemoryEstimate(
            a_bytes=used[0][0],
            b_bytes=used[1][0],
            device_bytes=used[0][1],
            source="reserved in earlier launches",
        )
    else:
        a_bytes, b_bytes = (side.recipe.derived.get("memory_bytes") for side in (a, b))
        memory = MemoryEstimate(a_bytes=a_bytes, b_bytes=b_bytes)
    return ab_mode.choose(request.ab, b.trainer, memory)


def _check_comparable(request: GateRequest, a: GateSide | None, b: GateSide) -> None:
    """Raises BaselineError or UsageError where the sides do not measure the same thing.

    --set, which changes both sides, may change paths of this machine and nothing else.
    """
    stored = request.baseline
    if stored is not None:
        own_settings = bool(request.candidate_set)
        baseline.check_comparable(stored, b.recipe.identity, own_settings=own_settings)
        if a is not None and request.set:
            baseline.check_comparable(stored, a.recipe.identity, own_settings=False)
    if a is None:
        return
    for field in ("protocol", "data_id"):
        values = getattr(a.recipe.identity, field), getattr(b.recipe.identity, field)
        if values[0] != values[1]:
            raise UsageError(
                field,
                "the same value on both sides",
                f"{values[0]} against {values[1]}",
                "The two sides do not measure the same thing: gate each against its like.",
            )
