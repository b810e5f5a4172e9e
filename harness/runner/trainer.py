"""Adapters of trainers: the command line of each verb, and its reply (`replies`).

The trainer owns its configuration: an adapter passes overrides to it and returns its reply, and
knows no field by name. Another trainer is another class here.
"""

import contextlib
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import msgspec

from harness.errors import DataError, StudyFileError, TrainerError
from harness.escape import escape
from harness.files import read_json, write_json
from harness.runner.replies import (
    Catalogue,
    Description,
    Fault,
    Losses,
    ProbeResult,
    Request,
    Requirements,
)
from harness.runner.sandbox import Sandbox
from harness.runner.variables import trainer_environment

REPLY_LIMIT_S = 300.0
PASS_ON_S = 5.0  # for the last lines, where a helper process keeps stderr open
Launcher = Callable[[str, Sequence[str], int], list[str]]
"""(interpreter, arguments after `-m`, ranks) -> the command line that starts all ranks."""
T = TypeVar("T")


def torchrun_command(python: str, arguments: Sequence[str], ranks: int) -> list[str]:
    """The command line that starts `ranks` processes of a module on this machine."""
    options = ["--standalone", "--nproc-per-node", str(ranks)]
    return [python, "-m", "torch.distributed.run", *options, "-m", *arguments]


class NativeTrainer:
    """The trainer of this repository: the package `model`."""

    name: ClassVar[str] = "native"
    package: ClassVar[str] = "model"
    extras: ClassVar[tuple[str, ...]] = ("train", "gpu")  # of its pyproject.toml
    paces: ClassVar[bool] = True  # has the verb `pace`

    def __init__(self, checkout: Path | None = None, python: Path | None = None) -> None:
        """`python`: its interpreter; None for that of this process."""
        self.checkout = (checkout or default_checkout()).resolve()
        self.python = str(python or sys.executable)
        self.launcher: Launcher = torchrun_command
        """Starts several ranks; on several nodes it is replaced by multinode.py."""
        self.sandbox: Sandbox | None = None
        """Where its processes run; None for the machine itself."""

    def at(self, checkout: Path, python: Path | None = None) -> "NativeTrainer":
        """The same trainer in another checkout, with the same interpreter or another."""
        return type(self)(checkout, python or Path(self.python))

    def inside(self, sandbox: Sandbox) -> Self:
        """The same trainer with all its processes in a sandbox."""
        contained = copy.copy(self)
        contained.sandbox = sandbox
        return contained

    def describe(self, requests: Sequence[Request]) -> list[Description]:
        """Describes all requests, in order, with one process.

        Raises TrainerError if the trainer is missing, is another package, or replies nonsense.
        """
        text = json.dumps([msgspec.to_builtins(request) for request in requests])
        bases = [Path(request.base) for request in requests if request.base is not None]
        value = self._request("describe", ["--batch"], stdin=text, readable=bases)
        replies = self._as(value, list[Description], "describe --batch")
        names = [reply.name for reply in replies]
        if names != [request.name for request in requests]:
            expected = f"{len(requests)} descriptions from {self.package}.describe, in order"
            raise _broken(expected, str(names))
        for reply in replies:
            self._check_package(reply.package)
        return replies

    def describe_or_fail(self, requests: Sequence[Request]) -> list[Description]:
        """Like `describe`, but raises StudyFileError with every fault of every request."""
        replies = self.describe(requests)
        raise_faults([(reply.name, fault) for reply in replies for fault in reply.errors])
        return replies

    def catalogue(self) -> Catalogue:
        """The trainer's tricks and settable fields. Raises TrainerError."""
        value = self._request("describe", ["--catalogue"])
        return self._as(value, Catalogue, "describe --catalogue")

    def machine(self) -> dict[str, Any]:
        """GPUs and back-ends as the trainer sees them; may take seconds. Raises TrainerError."""
        value = self._request("doctor", [])
        return self._as(value, dict[str, Any], "doctor")

    def prepare(self, config: Mapping[str, Any]) -> str | None:
        """Prepares a configuration's data, with progress on stderr; returns the data_id."""
        with tempfile.TemporaryDirectory(prefix="harness-") as folder:
            path = Path(folder) / "config.json"
            write_json(path, dict(config))
            with _escaped_stderr() as stderr:
                done = subprocess.run(
                    self._contained(
                        self._command("data", "prepare", "--config", str(path)),
                        readable=[path],
                        network=True,
                    ),
                    cwd=self.checkout,
                    env=trainer_environment(),
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    start_new_session=True,  # a sandbox must not have the terminal
                )
        try:
            reply = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            reply = None
        if done.returncode != 0 or not isinstance(reply, dict) or "data_id" not in reply:
            got = f"exit code {done.returncode} from `{self.package}.data prepare`"
            hint = "Its message is above: correct the data source that it names."
            raise DataError("", "prepared data", got, hint)
        return str(reply["data_id"])

    def requirements(
        self, config_file: Path, run_dir: Path, ranks: int, nodes: int = 1
    ) -> Requirements:
        """What a job requires of this machine, one of `nodes`; quick. Raises TrainerError."""
        arguments = ["--config", str(config_file), "--ranks", str(ranks), "--out", str(run_dir)]
        arguments += ["--nodes", str(nodes)] if nodes > 1 else []
        return self._as(self._request("doctor", arguments), Requirements, "doctor --config")

    def evaluate(self, config_file: Path, run_dir: Path, timeout_s: float) -> dict[str, float]:
        """The losses of a run's final checkpoint by this trainer's code, whatever code trained it.

        Raises TrainerError where it cannot load or evaluate it.
        """
        arguments = ["--config", str(config_file), "--out", str(run_dir)]
        readable = [config_file, run_dir]
        value = self._request("val_eval", arguments, readable=readable, timeout_s=timeout_s)
        return self._as(value, Losses, "val_eval").as_metrics()

    def train_command(self, config_file: Path, run_dir: Path, ranks: int = 1) -> list[str]:
        """The command line of one run, without its watch descriptor."""
        return self._on_ranks(ranks, "train", config_file, run_dir)

    def pace_command(
        self, config_file: Path, run_dir: Path, ranks: int = 1, at_step: int = 0
    ) -> list[str]:
        """The command line of a trainer that steps on request, without its watch descriptor.

        `at_step`: the step whose place in the schedules it uses; 0 for a trainer without stages.
        """
        options = ["--at-step", str(at_step)] if at_step else []
        return self._on_ranks(ranks, "pace", config_file, run_dir, *options)

    def probe_command(self, config_file: Path, run_dir: Path, ranks: int = 1) -> list[str]:
        """The command line that writes `probe.json` to a folder, without its watch descriptor."""
        return self._on_ranks(ranks, "doctor", config_file, run_dir, "--probe")

    def read_probe(self, run_dir: Path) -> ProbeResult | None:
        """The probe.json of a folder; None if there is none. Raises TrainerError."""
        value = read_json(run_dir / "probe.json")
        return self._as(value, ProbeResult, "probe") if value else None

    def _on_ranks(
        self, ranks: int, verb: str, config_file: Path, run_dir: Path, *more: str
    ) -> list[str]:
        """The command line of a verb on one rank or several."""
        arguments = ["--config", str(config_file), "--out", str(run_dir), *more]
        command = self._command(verb, *arguments)
        if ranks > 1:
            command = self.launcher(self.python, [f"{self.package}.{verb}", *arguments], ranks)
        return self._contained(command, readable=[config_file], writable=[run_dir])

    def _contained(
        self,
        command: list[str],
        *,
        readable: Sequence[Path],
        writable: Sequence[Path] = (),
        network: bool = False,
    ) -> list[str]:
        """The command line inside the sandbox, where there is one."""
        if self.sandbox is None:
            return command
        return self.sandbox.command(
            command, self.checkout, readable=readable, writable=writable, network=network
        )

    def _command(self, verb: str, *arguments: str) -> list[str]:
        return [self.python, "-m", f"{self.package}.{verb}", *arguments]

    def _request(
        self,
        verb: str,
        arguments: Sequence[str],
        stdin: str = "",
        readable: Sequence[Path] = (),
        timeout_s: float = REPLY_LIMIT_S,
    ) -> object:
        if not self._own_package().is_dir():  # else an installed one would reply
            raise self._wrong_package(self._importable_package())
        command = self._command(verb, *arguments)
        try:
            done = subprocess.run(
                self._contained(command, readable=readable),
                cwd=self.checkout,
                env=trainer_environment(),
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                start_new_session=True,  # Ctrl-C is for the harness
            )
        except subprocess.TimeoutExpired:
            expected = f"a reply of {' '.join(command[1:])} within {timeout_s:g} s"
            raise _broken(expected, "none") from None
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise self._no_reply(verb, arguments, done) from None

    def _no_reply(
        self, verb: str, arguments: Sequence[str], done: "subprocess.CompletedProcess[str]"
    ) -> TrainerError:
        top = self.package.partition(".")[0]
        if re.search(rf"No module named '?{top}\b", done.stderr):
            return self._wrong_package(self._importable_package())
        tail = (done.stderr or done.stdout).strip()[-600:]
        expected = f"JSON from `{self.package}.{verb} {' '.join(arguments)}`"
        return _broken(expected, f"exit code {done.returncode} and: {tail or 'nothing'}")

    def _check_package(self, folder: str | None) -> None:
        if folder is not None and Path(folder).resolve() != self._own_package():
            raise self._wrong_package(folder)

    def _own_package(self) -> Path:
        return self.checkout.joinpath(*self.package.split("."))

    def _importable_package(self) -> str | None:
        """Where Python imports the package from, in the checkout; None if it cannot."""
        top = self.package.partition(".")[0]
        code = (
            "import importlib.util as u; "
            f"s = u.find_spec({top!r}); "
            "print((s.origin or list(s.submodule_search_locations)[0]) if s else '')"
        )
        done = subprocess.run(
            [self.python, "-c", code],
            cwd=self.checkout,
            env=trainer_environment(),
            capture_output=True,
            text=True,
        )
        return done.stdout.strip() or None

    def _wrong_package(self, folder: str | None) -> TrainerError:
        own = self._own_package()
        if folder is None:
            hint = "Run from a complete checkout, or reinstall the project."
            return TrainerError("", f"the trainer's package at {own}", "no such package", hint)
        return TrainerError(
            "",
            f"the trainer's package {self.package} at {own}",
            f"another package of that name at {folder}",
            "Remove the other from PYTHONPATH or uninstall it; unset PYTHONSAFEPATH if it is set.",
        )

    def _as(self, value: object, kind: type[T], verb: str) -> T:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            expected = f"a reply of `{self.package}.{verb}` that follows the contract"
            raise _broken(expected, str(error)) from error


@contextlib.contextmanager
def _escaped_stderr() -> Iterator[int | None]:
    """A descriptor whose lines reach stderr as text; None (inherited) where that is a terminal.

    In a CI job, a line of a trainer must not be a command of the runner.
    """
    if sys.stderr.isatty():
        yield None
        return
    reading, writing = os.pipe()
    copying = threading.Thread(target=_pass_on, args=[reading], daemon=True)
    copying.start()
    try:
        yield writing
    finally:
        os.close(writing)
        copying.join(PASS_ON_S)


def _pass_on(descriptor: int) -> None:
    with open(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            sys.stderr.write(escape(line, "log"))
            sys.stderr.flush()


def _broken(expected: str, got: str) -> TrainerError:
    hint = "Fix the trainer, or name another with `trainer:` in the study file."
    return TrainerError("", expected, got, hint)


class FakeTrainer(NativeTrainer):
    """The simulated trainer: a real process whose curves come from a formula and a seed."""

    name: ClassVar[str] = "fake"
    package: ClassVar[str] = "harness.runner.fake_trainer"
    extras: ClassVar[tuple[str, ...]] = ()

    def _on_ranks(
        self, ranks: int, verb: str, config_file: Path, run_dir: Path, *more: str
    ) -> list[str]:
        """One process that simulates all ranks."""
        options = ["--ranks", str(ranks)] if ranks > 1 else []
        return [*super()._on_ranks(1, verb, config_file, run_dir, *more), *options]


TRAINERS: dict[str, type[NativeTrainer]] = {
    kind.name: kind for kind in (NativeTrainer, FakeTrainer)
}


def by_name(name: str) -> NativeTrainer:
    """The adapter of a trainer. Raises StudyFileError for an unknown name."""
    if name not in TRAINERS:
        hint = "Name one of them, or add an adapter to harness/runner/trainer.py."
        raise StudyFileError("trainer", "one of " + ", ".join(TRAINERS), repr(name), hint)
    return TRAINERS[name]()


def raise_faults(faults: Sequence[tuple[str, Fault]], source: str = "") -> None:
    """Raises StudyFileError if there are any (configuration name, fault) pairs.

    A fault that several configurations share, such as one of the base, is reported once.
    """
    if not faults:
        return
    name, first = faults[0]
    if all(fault == first for _, fault in faults):
        same_file = first.path == name or (name and first.path.endswith(f"/{name}"))
        path = "" if same_file else first.path
        where = ": ".join(part for part in (source, name, path) if part)
        raise StudyFileError(where, first.expected, first.got, first.hint)
    names: dict[Fault, list[str]] = {}
    for name, fault in faults:
        names.setdefault(fault, []).append(name)
    lines = [
        f"\n  {', '.join(owners)}: {fault}. {fault.hint.rstrip('.')}"
        for fault, owners in names.items()
    ]
    expected = "configurations without faults"
    got = f"{len(names)} faults:" + "".join(lines)
    raise StudyFileError(source, expected, got, "Correct them in the file, its base, or --set.")


def default_checkout() -> Path:
    """The working directory if it is a checkout, else the folder that contains this package.

    In a checkout, its code is used even if another copy is installed.
    """
    here = Path.cwd()
    if (here / "model" / "describe.py").is_file() and (here / "harness").is_dir():
        return here
    return Path(__file__).resolve().parents[2]


def with_value(config: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of a nested configuration with the field at a dotted path set."""
    head, _, rest = path.partition(".")
    inner = config.get(head)
    new = with_value(inner if isinstance(inner, dict) else {}, rest, value) if rest else value
    return {**config, head: new}


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """The value of a dotted path in a nested configuration; None if it has none."""
    here: Any = config
    for part in path.split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return here
