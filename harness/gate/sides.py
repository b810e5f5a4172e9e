"""The two sides of a gate, described and found comparable before anything is spent.

A side is a checkout with the configuration that is run on it. The candidate's may be another ref,
other settings, or both; what it is compared with is a stored baseline, another ref, or the same
code without those settings. What does not measure the same thing is refused here.

After `baseline` and `replicates`, before `gate`.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from harness import files
from harness.config.yaml_schema import parse_choice
from harness.errors import UsageError
from harness.gate import ab_mode, baseline, history
from harness.gate.ab_interleaved import Form
from harness.gate.ab_mode import AbMode, Memory, Word
from harness.gate.baseline import Baseline
from harness.gate.result import Claim, Rule, Subject
from harness.results.recipe import NoiseScope, device_name, noise_scope, scale_from_derived
from harness.results.store import Store
from harness.runner import environment, replicates, worktree
from harness.runner.replicates import Recipe
from harness.runner.trainer import NativeTrainer, by_name


class GateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line fixes. `versus` are settings of the candidate alone."""

    baseline: Baseline | None = None
    config: Path | None = None
    trainer: str = "native"
    set: Mapping[str, Any] = {}
    versus: Mapping[str, Any] = {}
    head: str | None = None
    base: str | None = None
    claim: Claim = "ml"
    alpha: float = 0.05
    margins: Mapping[str, float] = {}
    budget_s: float | None = None
    price_usd_per_hour: float | None = None
    once: bool = False
    rule: Rule = "looks"
    ab_mode: Word = "auto"
    environments: environment.EnvMode | None = None
    run_limit_s: float = 3600.0


class GateSide(msgspec.Struct, frozen=True, kw_only=True):
    """A checkout with the configuration that is run on it."""

    trainer: NativeTrainer
    recipe: Recipe
    subject: Subject
    notes: list[str] = []  # on what it runs, where that is not what the code here runs on


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides, described and found comparable. `a` is None where speed is not compared.

    `ab_mode`: how launches are made, where there are any. `bench`: what their noise belongs to.
    """

    asked: GateRequest
    a: GateSide | None
    b: GateSide
    key: str
    bench: NoiseScope
    ab_mode: AbMode | None = None

    @property
    def alike(self) -> bool:
        """Whether both sides are one code and one configuration, as in a test of the gate."""
        ids = {(side.subject.code_id, side.subject.config_id) for side in (self.a, self.b) if side}
        return self.a is not None and len(ids) == 1

    @property
    def form(self) -> Form:
        """How launches are made."""
        return self.ab_mode.form if self.ab_mode is not None else "interleaved"

    @property
    def notes(self) -> list[str]:
        """What has to be said of the sides beside every verdict."""
        return [*(self.a.notes if self.a is not None else []), *self.b.notes]

    @property
    def compares_quality(self) -> bool:
        """A change that claims to be none is held to equal losses in place of replicates."""
        return self.asked.baseline is not None and self.asked.claim != "refactor"

    @property
    def reference(self) -> Subject:
        """What stands for side A in the result."""
        if self.a is not None:
            return self.a.subject
        assert self.asked.baseline is not None
        identity = self.asked.baseline.now.identity
        place = self.asked.baseline.place
        return Subject(code_id=identity.code_id, config_id=identity.config_id, baseline=place)


def prepare(
    asked: GateRequest, store: Store, say: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Checks out and describes both sides; `say` hears what takes long.

    Raises UsageError, BaselineError, StudyFileError, TrainerError.
    """
    _check_asked(asked)
    _check_end(asked)
    entry = asked.baseline.now if asked.baseline else None
    trainer = by_name(entry.trainer if entry else asked.trainer)
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        file = asked.config
        if entry is not None:
            file = Path(folder) / "baseline.json"
            files.write_json(file, entry.config)
        assert file is not None
        sets = {**asked.set, **asked.versus}
        b = _side(trainer, asked.head, file, sets, store, asked, say)
        a = None
        if asked.base is not None or asked.versus:
            ref = asked.base if asked.base is not None else asked.head
            a = _side(trainer, ref, file, asked.set, store, asked, say)
    if asked.baseline is not None:
        _refuse_unlike_baseline(asked.baseline, a, b, asked)
    if a is not None:
        _refuse_unlike(a.recipe, b.recipe)
    rule: list[object] = [asked.claim, asked.alpha, sorted(asked.margins.items())]
    rule += ["open"] if asked.rule == "open" else []
    how = _turns(a, b, asked, store) if a is not None else None
    prepared = Prepared(asked=asked, a=a, b=b, key="", bench=_bench(asked, b), ab_mode=how)
    key = history.key_of(prepared.reference, b.subject, rule)
    return msgspec.structs.replace(prepared, key=key)


def claim_of(text: str) -> Claim:
    """A claim by its name. Raises UsageError."""
    hint = "refactor: equal losses; systems: equal quality, and faster; ml: no harm at all."
    claim: Claim = parse_choice(text, get_args(Claim), "--claims", hint)
    return claim


def _check_asked(asked: GateRequest) -> None:
    faults = {
        "a baseline or a configuration": asked.baseline is None and asked.config is None,
        "a baseline or a configuration, not both": None not in (asked.baseline, asked.config),
        "something to compare: --baseline, --base or --candidate-set": (
            asked.baseline is None and asked.base is None and not asked.versus
        ),
        f"--base or --candidate-set for the claim {asked.claim}, which is held to another code": (
            asked.claim != "ml" and asked.base is None and not asked.versus
        ),
    }
    for expected, wrong in faults.items():
        if wrong:
            raise UsageError(
                "harness gate",
                expected,
                "none" if "not both" not in expected else "both",
                "Such as: harness gate --baseline NAME --base main --head my-branch.",
            )


def _check_end(asked: GateRequest) -> None:
    """An open gate goes on until its budget ends, so it has to have one."""
    if asked.rule == "open" and asked.budget_s is None:
        raise UsageError(
            "--always-valid",
            "--budget-minutes beside it",
            "no budget",
            "Set it, or leave --always-valid out: then three looks are planned.",
        )


def _side(
    trainer: NativeTrainer,
    ref: str | None,
    file: Path,
    sets: Mapping[str, Any],
    store: Store,
    asked: GateRequest,
    say: Callable[[str], None],
) -> GateSide:
    at, commit = trainer, worktree.clean_commit(trainer.checkout)
    notes: list[str] = []
    if ref not in (None, "."):
        checkout = worktree.checkout_ref(str(ref), trainer.checkout, store.root)
        at, notes = _installed(trainer, str(ref), checkout, store, asked, say)
        commit = worktree.clean_commit(at.checkout)
    recipe = replicates.describe_recipe(at, ref or "the present code", str(file.resolve()), sets)
    subject = Subject(
        code_id=recipe.identity.code_id,
        config_id=recipe.identity.config_id,
        ref=ref or ".",
        commit=commit,
        baseline=asked.baseline.place if asked.baseline else None,
        set=dict(sets),
    )
    return GateSide(trainer=at, recipe=recipe, subject=subject, notes=notes)


def _installed(
    trainer: NativeTrainer,
    ref: str,
    checkout: Path,
    store: Store,
    asked: GateRequest,
    say: Callable[[str], None],
) -> tuple[NativeTrainer, list[str]]:
    """The trainer in a checkout, on the packages that it asks for or by request on those here."""
    found = environment.compare_requirements(ref, trainer, checkout)
    if not found.differing:
        return trainer.at(checkout), []
    if asked.environments is None:
        raise environment.requirements_error(found)
    if asked.environments == "current":
        note = f"{ref} asks for other packages and runs on those here, as asked: "
        return trainer.at(checkout), [note + "; ".join(found.differing)]
    python = environment.isolated_python(found, store.root / "environments", say)
    versions = environment.version_differences(found, python)
    note = f"{ref} runs in an environment of its own, {python.parent.parent.name}: "
    return trainer.at(checkout, python), [note + ("; ".join(versions) or "the same versions")]


def _bench(asked: GateRequest, b: GateSide) -> NoiseScope:
    """Of the baseline's records; without one, of the candidate on what its trainer sees here."""
    if asked.baseline is not None:
        return noise_scope(asked.baseline.now.records[0])
    scale = scale_from_derived(b.trainer.name, b.recipe.derived)
    return NoiseScope(scale=scale, device=device_name(b.trainer.machine()))


def _turns(a: GateSide, b: GateSide, asked: GateRequest, store: Store) -> AbMode:
    """By what earlier launches of these configurations held, else by the trainer's estimates."""
    estimates = [side.recipe.derived.get("memory_bytes") for side in (a, b)]
    memory = Memory(a_bytes=estimates[0], b_bytes=estimates[1])
    stored = history.load(store)
    held = [history.held_bytes(stored, side.subject.config_id) for side in (a, b)]
    if held[0] is not None and held[1] is not None:
        memory = Memory(
            a_bytes=held[0][0],
            b_bytes=held[1][0],
            device_bytes=held[0][1],
            source="held in earlier launches",
        )
    return ab_mode.choose(asked.ab_mode, b.trainer, memory)


def _refuse_unlike_baseline(
    stored: Baseline, a: GateSide | None, b: GateSide, asked: GateRequest
) -> None:
    """Settings of both sides may say where things lie on this machine, and nothing else."""
    baseline.refuse_foreign(stored, b.recipe.identity, bool(asked.versus))
    if a is not None and asked.set:
        baseline.refuse_foreign(stored, a.recipe.identity, False)


def _refuse_unlike(a: Recipe, b: Recipe) -> None:
    """Another protocol or other data is another measurement."""
    for field in ("protocol", "data_id"):
        values = getattr(a.identity, field), getattr(b.identity, field)
        if values[0] != values[1]:
            raise UsageError(
                field,
                "the same on both sides",
                f"{values[0]} against {values[1]}",
                "The two do not measure the same thing: gate each against its like.",
            )
