"""The adapters: how a trainer is asked and started. Its verbs are command lines of its own.

The trainer owns its configuration. This file carries overrides to it and brings back what it says;
it knows no field by name. A foreign trainer is one more class here. Comes after the study file's
schema and before anything is resolved or run.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from harness.errors import StudyFileError, TrainerError
from harness.files import read_json, write_json

DESCRIBE_LIMIT_S = 300.0
Launcher = Callable[[str, Sequence[str], int], list[str]]
"""(interpreter, words behind `-m`, ranks) -> the command line that starts them all."""
HINT_BROKEN = "Repair the trainer, or name another with `trainer:` in the study file."


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration to describe: a base file (None: the bare default) and overrides."""

    name: str
    base: str | None
    set: dict[str, Any]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with a configuration, in the trainer's words."""

    path: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""


class IdentityReply(msgspec.Struct, frozen=True, kw_only=True):
    """The identity part of a description."""

    config_id: str
    code_id: str
    data_id: str | None = None
    protocol: int


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a trainer says of one configuration. With `errors`, the rest may be empty.

    `text_tokens`: of all training text that it may read, where that is known.
    """

    name: str
    config: dict[str, Any] | None = None
    derived: dict[str, Any] | None = None
    pins: dict[str, Any] | None = None
    places: dict[str, Any] = {}
    tricks: dict[str, bool] | None = None
    identity: IdentityReply | None = None
    text_tokens: int | None = None
    package: str | None = None
    errors: list[Fault] = []


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Every trick, as the trainer prints it, and the fields the harness may set."""

    tricks: dict[str, dict[str, Any]] = {}
    settable_fields: dict[str, str] = {}


class PreflightFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One check before a job starts. An `error` keeps it from starting; the rest is reported."""

    what: str
    ok: bool
    expected: str
    got: str
    hint: str | None = None
    severity: Literal["error", "warning", "info"] = "error"


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a trainer says a job needs, judged by itself. `checkpoint_bytes`: of one checkpoint."""

    findings: list[PreflightFinding] = []
    checkpoint_bytes: int | None = None
    free_bytes: int | None = None
    planned_tokens: int | None = None
    data: dict[str, Any] = {}


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranks of a job measured of themselves and of each other; the rest is kept unread."""

    ranks: int
    findings: list[PreflightFinding] = []
    gpus: list[dict[str, Any]] = []
    all_reduce: list[dict[str, float]] = []


def torchrun_command(python: str, words: Sequence[str], ranks: int) -> list[str]:
    """Starts that many processes on this machine, each a rank."""
    spread = ["--standalone", "--nproc-per-node", str(ranks)]
    return [python, "-m", "torch.distributed.run", *spread, "-m", *words]


class NativeTrainer:
    """The trainer beside the harness: the package `model`."""

    name: ClassVar[str] = "native"
    package: ClassVar[str] = "model"
    extras: ClassVar[tuple[str, ...]] = ("train", "gpu")  # of its pyproject.toml: what it runs on
    paces: ClassVar[bool] = True  # answers the verb `pace`

    def __init__(self, checkout: Path | None = None, python: Path | None = None) -> None:
        """`python`: the interpreter that it runs under; None for this process's own."""
        self.checkout = (checkout or default_checkout()).resolve()
        self.python = str(python or sys.executable)
        self.launcher: Launcher = torchrun_command
        """How several ranks are started; the nodes of a cluster have another."""

    def at(self, checkout: Path, python: Path | None = None) -> "NativeTrainer":
        """The same trainer in another checkout of its code, under this interpreter or another."""
        return type(self)(checkout, python or Path(self.python))

    def describe(self, requests: Sequence[Request]) -> list[Description]:
        """One description for each request, in order; one process for all of them.

        Raises TrainerError when the trainer is missing, another package, or answers nonsense.
        """
        text = json.dumps([msgspec.to_builtins(request) for request in requests])
        value = self._ask("describe", ["--batch"], stdin=text)
        replies: list[Description] = self._as(value, list[Description], "describe --batch")
        if [reply.name for reply in replies] != [request.name for request in requests]:
            raise TrainerError(
                "",
                f"{len(requests)} descriptions from {self.package}.describe, in order",
                f"{[reply.name for reply in replies]}",
                HINT_BROKEN,
            )
        for reply in replies:
            self._check_package(reply.package)
        return replies

    def describe_or_fail(self, requests: Sequence[Request]) -> list[Description]:
        """As `describe`, but raises StudyFileError naming every fault of every request."""
        replies = self.describe(requests)
        raise_faults([(reply.name, fault) for reply in replies for fault in reply.errors])
        return replies

    def catalogue(self) -> Catalogue:
        """The trainer's tricks and settable_fields. Raises TrainerError."""
        value = self._ask("describe", ["--catalogue"])
        found: Catalogue = self._as(value, Catalogue, "describe --catalogue")
        return found

    def machine(self) -> dict[str, Any]:
        """GPUs and back-ends as the trainer sees them; may take seconds. Raises TrainerError."""
        value = self._ask("describe", ["--machine"])
        found: dict[str, Any] = self._as(value, dict[str, Any], "describe --machine")
        return found

    def prepare(self, config: Mapping[str, Any]) -> str | None:
        """Makes a configuration's data ready, showing its progress on stderr; returns data_id."""
        with tempfile.TemporaryDirectory(prefix="harness-") as folder:
            path = Path(folder) / "config.json"
            write_json(path, dict(config))
            done = subprocess.run(
                self._command("data", "prepare", "--config", str(path)),
                cwd=self.checkout,
                stdout=subprocess.PIPE,
                text=True,
            )
        try:
            reply = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            reply = None
        if done.returncode != 0 or not isinstance(reply, dict) or "data_id" not in reply:
            raise TrainerError(
                "",
                "data made ready for training",
                f"exit code {done.returncode} from `{self.package}.data prepare`",
                "Its message stands above; correct the data source it names.",
            )
        return str(reply["data_id"])

    def needs(self, config_file: Path, run_dir: Path, ranks: int, nodes: int = 1) -> Needs:
        """What a job needs of this machine, one of `nodes`, and has; quick. Raises TrainerError."""
        words = ["--config", str(config_file), "--ranks", str(ranks), "--out", str(run_dir)]
        words += ["--nodes", str(nodes)] if nodes > 1 else []
        found: Needs = self._as(self._ask("needs", words), Needs, "needs")
        return found

    def train_command(self, config_file: Path, run_dir: Path, ranks: int = 1) -> list[str]:
        """The command line of one run, but for its watch descriptor."""
        return self._spread(ranks, "train", config_file, run_dir)

    def pace_command(
        self, config_file: Path, run_dir: Path, ranks: int = 1, at_step: int = 0
    ) -> list[str]:
        """The command line of a trainer that steps when told, but for its watch descriptor.

        `at_step`: where its schedules are held; a trainer without stages is never asked for another
        than the first.
        """
        held = ["--at-step", str(at_step)] if at_step else []
        return self._spread(ranks, "pace", config_file, run_dir, *held)

    def probe_command(self, config_file: Path, run_dir: Path, ranks: int = 1) -> list[str]:
        """The command line that leaves `probe.json` in a folder, but for its watch descriptor."""
        return self._spread(ranks, "probe", config_file, run_dir)

    def probed(self, run_dir: Path) -> ProbeResult | None:
        """What a probe left, or None where it left nothing. Raises TrainerError."""
        value = read_json(run_dir / "probe.json")
        found: ProbeResult | None = None if value is None else self._as(value, ProbeResult, "probe")
        return found

    def _spread(
        self, ranks: int, verb: str, config_file: Path, run_dir: Path, *more: str
    ) -> list[str]:
        """A verb on one rank or several."""
        arguments = ["--config", str(config_file), "--out", str(run_dir), *more]
        if ranks == 1:
            return self._command(verb, *arguments)
        return self.launcher(self.python, [f"{self.package}.{verb}", *arguments], ranks)

    def _command(self, verb: str, *arguments: str) -> list[str]:
        return [self.python, "-m", f"{self.package}.{verb}", *arguments]

    def _ask(self, verb: str, arguments: Sequence[str], stdin: str = "") -> object:
        if not self._own_package().is_dir():  # else an installed one would answer in its place
            raise self._in_the_way(self._found_package())
        command = self._command(verb, *arguments)
        try:
            done = subprocess.run(
                command,
                cwd=self.checkout,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=DESCRIBE_LIMIT_S,
                start_new_session=True,  # Ctrl-C is the harness's to hear
            )
        except subprocess.TimeoutExpired:
            raise TrainerError(
                "",
                f"an answer of {' '.join(command[1:])} within {DESCRIBE_LIMIT_S:g} s",
                "none",
                HINT_BROKEN,
            ) from None
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise self._no_answer(verb, arguments, done) from None

    def _no_answer(
        self, verb: str, arguments: Sequence[str], done: "subprocess.CompletedProcess[str]"
    ) -> TrainerError:
        if "No module named" in done.stderr and self.package in done.stderr:
            return self._in_the_way(self._found_package())
        tail = (done.stderr or done.stdout).strip()[-600:]
        return TrainerError(
            "",
            f"JSON from `{self.package}.{verb} {' '.join(arguments)}`",
            f"exit code {done.returncode} and: {tail or 'nothing'}",
            HINT_BROKEN,
        )

    def _check_package(self, found: str | None) -> None:
        if found is None:
            return
        if Path(found).resolve() != self._own_package():
            raise self._in_the_way(found)

    def _own_package(self) -> Path:
        return self.checkout.joinpath(*self.package.split("."))

    def _found_package(self) -> str | None:
        """Where Python finds the package's first part from the checkout, if anywhere."""
        top = self.package.partition(".")[0]
        code = (
            "import importlib.util as u; "
            f"s = u.find_spec({top!r}); "
            "print((s.origin or list(s.submodule_search_locations)[0]) if s else '')"
        )
        done = subprocess.run(
            [self.python, "-c", code], cwd=self.checkout, capture_output=True, text=True
        )
        return done.stdout.strip() or None

    def _in_the_way(self, found: str | None) -> TrainerError:
        own = self._own_package()
        if found is None:
            return TrainerError(
                "",
                f"the trainer's package at {own}",
                "no such package",
                "Run from a complete checkout, or install the project again.",
            )
        return TrainerError(
            "",
            f"the trainer's package {self.package} at {own}",
            f"another package of that name at {found}",
            "Take the other out of PYTHONPATH or uninstall it; unset PYTHONSAFEPATH if set.",
        )

    def _as(self, value: object, kind: Any, verb: str) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise TrainerError(
                "", f"the contract's answer from `{self.package}.{verb}`", str(error), HINT_BROKEN
            ) from error


class FakeTrainer(NativeTrainer):
    """The trainer in the box: a real process whose curves come from a formula and a seed."""

    name: ClassVar[str] = "fake"
    package: ClassVar[str] = "harness.runner.fake_trainer"
    extras: ClassVar[tuple[str, ...]] = ()

    def _spread(
        self, ranks: int, verb: str, config_file: Path, run_dir: Path, *more: str
    ) -> list[str]:
        """One process that pretends to be all ranks."""
        pretended = ["--ranks", str(ranks)] if ranks > 1 else []
        return [*super()._spread(1, verb, config_file, run_dir, *more), *pretended]


TRAINERS: dict[str, type[NativeTrainer]] = {
    kind.name: kind for kind in (NativeTrainer, FakeTrainer)
}


def by_name(name: str, checkout: Path | None = None) -> NativeTrainer:
    """The adapter of that name. Raises StudyFileError for an unknown one."""
    if name not in TRAINERS:
        raise StudyFileError(
            "trainer",
            "one of " + ", ".join(TRAINERS),
            repr(name),
            "Name one of them, or add an adapter to harness/runner/trainer.py.",
        )
    return TRAINERS[name](checkout)


def raise_faults(faults: Sequence[tuple[str, Fault]], source: str = "") -> None:
    """Raises StudyFileError with every (name of the configuration, fault); none: returns.

    A fault that several share, such as one of the base, is told once.
    """
    if not faults:
        return
    name, first = faults[0]
    if all(fault == first for _, fault in faults):
        raise StudyFileError(
            ": ".join(part for part in (source, name, first.path) if part),
            first.expected,
            first.got,
            first.hint,
        )
    names: dict[Fault, list[str]] = {}
    for name, fault in faults:
        names.setdefault(fault, []).append(name)
    lines = [
        f"\n  {', '.join(who)}: {fault.path}: expected {fault.expected}; got {fault.got}. "
        + fault.hint.rstrip(".")
        for fault, who in names.items()
    ]
    raise StudyFileError(
        source,
        "configurations that the trainer accepts",
        f"{len(names)} faults:" + "".join(lines),
        "Correct them in the file, its base, or --set.",
    )


def default_checkout() -> Path:
    """The working directory where it is a checkout, else the folder that holds this package.

    Whoever stands in a checkout means its code, also when another copy is installed.
    """
    here = Path.cwd()
    if (here / "model" / "describe.py").is_file() and (here / "harness").is_dir():
        return here
    return Path(__file__).resolve().parents[2]


def with_value(config: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of a nested configuration with one dotted path set."""
    head, _, rest = path.partition(".")
    inner = config.get(head)
    new = with_value(inner if isinstance(inner, dict) else {}, rest, value) if rest else value
    return {**config, head: new}
