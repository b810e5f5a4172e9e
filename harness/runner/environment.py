"""The packages that a checkout requires, and a virtual environment that has them.

A ref runs under this interpreter if its pyproject.toml requires the same packages as the code here.
If it requires others, the user chooses: `--env isolated` installs them into an environment of the
ref's own, `--env current` runs it with the packages that are installed here.

An environment contains packages but not the ref's code, so all refs with equal requirements share
it. It is created once, in the store under `environments/`, and named by a hash of the requirements.
Packages with equal requirements on both sides get the version that is installed here; otherwise the
sides would differ by the day of their installation.
"""

import importlib.util
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import msgspec

from harness import files
from harness.config.yaml_schema import parse_choice
from harness.errors import TrainerError, UsageError
from harness.files import lock_file
from harness.runner.trainer import NativeTrainer
from harness.runner.variables import trainer_environment

EnvMode = Literal["isolated", "current"]
Requirements = Mapping[str, list[str]]  # lines by package
KEY_DIGITS = 12
PIP_LINES = 8
PIP = ("PIP_*", "UV_*")  # variables of an installation
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SPACES = re.compile(r"\s*([<>=!~,\[\]])\s*")  # insignificant white space in a requirement
MOST_BYTES = 2**20  # of a pyproject.toml
SHOWN = 6  # packages in an error message


class RefRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of the code here and of another checkout, by package."""

    ref: str
    here: dict[str, list[str]]
    there: dict[str, list[str]]

    @property
    def differing(self) -> list[str]:
        """The packages whose requirements differ, each with both."""
        names = sorted({*self.here, *self.there})
        return [
            f"{name} ({_lines(self.here, name)} here, {_lines(self.there, name)} there)"
            for name in names
            if self.here.get(name) != self.there.get(name)
        ]

    @property
    def pinned(self) -> list[str]:
        """The installed versions of packages with equal requirements, as constraints."""
        same = [name for name, lines in self.there.items() if self.here.get(name) == lines]
        return [
            f"{name}=={version.partition('+')[0]}"  # the index chooses +cu130 and the like
            for name in sorted(same)
            if (version := version_here(name)) is not None and "@" not in "".join(self.there[name])
        ]


def parse_env_mode(text: str) -> EnvMode | None:
    """The value of --env; None for an empty one. Raises UsageError."""
    if not text:
        return None
    hint = "isolated: install the ref's packages; current: use those that are installed here."
    mode: EnvMode = parse_choice(text, get_args(EnvMode), "--env", hint)
    return mode


def compare_requirements(ref: str, trainer: NativeTrainer, checkout: Path) -> RefRequirements:
    """The requirements of a checkout and of the trainer here. Raises TrainerError."""
    extras = _installed_extras(trainer)
    here, there = (_requirements(folder, extras) for folder in (trainer.checkout, checkout))
    return RefRequirements(ref=ref, here=here, there=there)


def requirements_error(requirements: RefRequirements) -> UsageError:
    """The error for a ref with other requirements if --env is not given."""
    more = len(requirements.differing) - SHOWN
    return UsageError(
        requirements.ref,
        "a ref whose pyproject.toml requires the same packages as the code here",
        "other packages: "
        + "; ".join(requirements.differing[:SHOWN])
        + (f"; {more} more" * (more > 0)),
        "--env isolated installs its packages into an environment of its own; "
        "--env current runs it with the packages that are installed here.",
    )


def isolated_python(
    requirements: RefRequirements, folder: Path, report: Callable[[str], None] = lambda _: None
) -> Path:
    """The interpreter of an environment with the ref's packages, which is created if necessary.

    Its name in `folder` is a hash of its requirements. `report` receives a line before an
    installation. Raises TrainerError with the last lines of pip.
    """
    lines = sorted(line for lines in requirements.there.values() for line in lines)
    key = [lines, requirements.pinned, sys.version, sysconfig.get_platform()]
    target = (folder / files.digest(key, KEY_DIGITS)).resolve()
    ready = target.with_suffix(".ready")
    python = target / "bin" / "python"
    lock = lock_file(target.with_suffix(".lock"), wait=True)  # another gate may be creating it
    assert lock is not None
    with lock:
        if not (ready.exists() and python.exists()):
            report(f"installing the packages of {requirements.ref} in {target}")
            _install(requirements, lines, target, python)
            files.write_json(ready, key)
    return python


def installed_versions(python: Path) -> dict[str, str]:
    """The versions of the packages in a virtual environment."""
    folder = python.parent.parent
    library = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    return {_normal(one.name): one.version for one in metadata.distributions(path=[library])}


def version_differences(requirements: RefRequirements, python: Path) -> list[str]:
    """The packages whose version in the ref's environment differs from the one here."""
    there = installed_versions(python)
    names = sorted({*requirements.here, *requirements.there})
    return [
        f"{name} {version_here(name) or 'absent'} here, {there.get(name, 'absent')} there"
        for name in names
        if version_here(name) != there.get(name)
    ]


def _install(
    requirements: RefRequirements, lines: Collection[str], target: Path, python: Path
) -> None:
    """Creates the environment afresh, so that nothing is left of an interrupted installation.

    Uses the pip of this environment, or, if it has none (as one that uv created), a new one.
    """
    has_pip = importlib.util.find_spec("pip") is not None
    without_pip = ["--without-pip"] if has_pip else []
    _run(requirements, [sys.executable, "-m", "venv", "--clear", *without_pip, str(target)])
    files.write_text(target / "requirements.txt", _text(lines))
    files.write_text(target / "constraints.txt", _text(requirements.pinned))
    pip = [sys.executable, "-m", "pip", "--python"] if has_pip else []
    pip += [str(python)] if has_pip else [str(python), "-m", "pip"]
    pip += ["install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    pip += ["--requirement", str(target / "requirements.txt")]
    _run(requirements, [*pip, "--constraint", str(target / "constraints.txt")])


def _run(requirements: RefRequirements, command: list[str]) -> None:
    done = subprocess.run(
        command,
        env=trainer_environment(also=PIP),  # packages run code while they are built
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        tail = [line for line in done.stdout.splitlines() if line.strip()][-PIP_LINES:]
        expected = "an environment with the packages that its pyproject.toml requires"
        got = f"exit code {done.returncode} and:\n  " + "\n  ".join(tail) + "\n"
        hint = "Correct what pip names, or use the packages that are installed here: --env current."
        raise TrainerError(requirements.ref, expected, got, hint)


def _text(lines: Collection[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# --- requirements in a pyproject.toml -------------------------------------------------------------


def _requirements(checkout: Path, extras: Collection[str]) -> dict[str, list[str]]:
    """Requirements by package: the dependencies and these extras. Raises TrainerError."""
    project = _project(checkout)
    packages: dict[str, set[str]] = {}
    for line in [*project.dependencies, *_extra_requirements(project, extras)]:
        name, rest = _name(line), NAME.sub("", " ".join(line.split()), count=1)
        packages.setdefault(name, set()).add(SPACES.sub(r"\1", name + rest))
    return {name: sorted(lines) for name, lines in packages.items()}


def _extra_requirements(project: "_Project", extras: Collection[str]) -> list[str]:
    """The requirements of extras, including extras of the same project that they name."""
    optional, own_name = project.optional_dependencies, _normal(project.name)
    lines, waiting, seen = [], list(extras), set()
    while waiting:
        extra = waiting.pop()
        for line in optional.get(extra, []) if extra not in seen else []:
            if _name(line) == own_name:
                waiting += re.findall(r"[\w.-]+", line.partition("[")[2].partition("]")[0])
            else:
                lines.append(line)
        seen.add(extra)
    return lines


class _Project(msgspec.Struct, kw_only=True, rename="kebab"):
    name: str = ""
    dependencies: list[str] = []
    optional_dependencies: dict[str, list[str]] = {}
    dynamic: list[str] = []


class _ProjectFile(msgspec.Struct, kw_only=True):
    project: _Project = msgspec.field(default_factory=_Project)


def _project(checkout: Path) -> _Project:
    """The table `project`; an empty one if there is no such file. Raises TrainerError.

    Anybody may have written the checkout: a link in it is not followed.
    """
    path = checkout / "pyproject.toml"
    try:
        with files.open_regular(path) as handle:
            text = handle.read(MOST_BYTES).decode("utf-8-sig")
        project = msgspec.convert(tomllib.loads(text), _ProjectFile).project
    except FileNotFoundError:
        return _Project()
    except OSError as error:
        hint = "It may be no link: commit the file itself."
        raise TrainerError(str(path), "a file", str(error.strerror), hint) from error
    except (ValueError, RecursionError) as error:
        raise TrainerError(str(path), "TOML", str(error), "Correct that line.") from error
    lines = [*project.dependencies, *chain(*project.optional_dependencies.values())]
    if options := [line for line in lines if not NAME.match(line.strip())]:
        expected, hint = "requirements that begin with a package", "Remove it: pip would obey it."
        raise TrainerError(str(path), expected, repr(options[0][:100]), hint)
    if "dependencies" in project.dynamic:
        expected = "dependencies under [project], to compare them"
        got = "dynamic dependencies"
        raise TrainerError(str(path), expected, got, "Write them out under [project].")
    return project


def _installed_extras(trainer: NativeTrainer) -> list[str]:
    """The extras of the trainer whose packages are all installed here."""
    project = _project(trainer.checkout)
    installed = []
    for extra in trainer.extras:
        everywhere = [line for line in _extra_requirements(project, [extra]) if ";" not in line]
        if everywhere and all(version_here(_name(line)) is not None for line in everywhere):
            installed.append(extra)
    return installed


def _name(line: str) -> str:
    """The package that a requirement names."""
    match = NAME.match(line)
    return _normal(match[0]) if match else line


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def version_here(name: str) -> str | None:
    """The installed version of a package; None if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _lines(requirements: Requirements, name: str) -> str:
    return " and ".join(requirements.get(name, [])) or "none"
