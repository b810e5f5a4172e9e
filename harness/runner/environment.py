"""What a checkout's code wants installed, and a virtual environment that has it.

A ref runs under the interpreter that runs this harness as long as its pyproject.toml asks for the
same packages as the code here. Where it asks for others, either an environment of its own is made,
or somebody has said that both may share this one; nothing is decided in silence.

An environment has packages and none of the ref's own code, so that every ref with the same lists
can use it: it is made once, in the store under `environments/`, named by its lists. Packages whose
lines are the same on both sides get the version that is running here. Else two sides would differ
by the day on which they were installed.

Beside `worktree`, before `gate`.
"""

import importlib.util
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from harness import files
from harness.config.yaml_schema import parse_choice
from harness.errors import TrainerError, UsageError
from harness.files import lock_file
from harness.runner.trainer import NativeTrainer

EnvMode = Literal["isolated", "current"]
Lists = Mapping[str, list[str]]  # requirement lines by package
KEY_DIGITS = 12
PIP_LINES = 8
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SPACES = re.compile(r"\s*([<>=!~,\[\]])\s*")  # that mean nothing: two lists may differ in them
SHOWN = 6


class RefRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """The packages of the code here and of another checkout, with what that checkout is called."""

    ref: str
    here: dict[str, list[str]]
    there: dict[str, list[str]]

    @property
    def differing(self) -> list[str]:
        """The packages whose lines differ, each with both."""
        names = sorted({*self.here, *self.there})
        return [
            f"{name} ({_lines(self.here, name)} here, {_lines(self.there, name)} there)"
            for name in names
            if self.here.get(name) != self.there.get(name)
        ]

    @property
    def pinned(self) -> list[str]:
        """Versions of this environment for what both ask for in the same words."""
        same = [name for name, lines in self.there.items() if self.here.get(name) == lines]
        return [
            f"{name}=={version.partition('+')[0]}"  # +cu130 and its like are the index's to choose
            for name in sorted(same)
            if (version := _version(name)) is not None and "@" not in "".join(self.there[name])
        ]


def parse_env_mode(text: str) -> EnvMode | None:
    """A word of the command line; empty: nobody said. Raises UsageError."""
    if not text:
        return None
    hint = "own: a ref with other dependencies gets its own; shared: all refs use this one."
    word: EnvMode = parse_choice(text, get_args(EnvMode), "--env", hint)
    return word


def compare_requirements(ref: str, trainer: NativeTrainer, checkout: Path) -> RefRequirements:
    """What a checkout and the trainer here ask for. Raises TrainerError."""
    extras = _installed_extras(trainer)
    here, there = (_asked(place, extras) for place in (trainer.checkout, checkout))
    return RefRequirements(ref=ref, here=here, there=there)


def requirements_error(found: RefRequirements) -> UsageError:
    """For a ref with other dependencies, where nobody said what to do about them."""
    more = len(found.differing) - SHOWN
    return UsageError(
        found.ref,
        "a ref whose pyproject.toml asks for the packages of the code here",
        "others: " + "; ".join(found.differing[:SHOWN]) + (f"; {more} more" * (more > 0)),
        "--env isolated installs its packages in an environment of its own; "
        "--env current runs it with the packages that are installed here.",
    )


def isolated_python(
    found: RefRequirements, folder: Path, say: Callable[[str], None] = lambda _: None
) -> Path:
    """The interpreter of an environment with the ref's packages, made where there is none.

    Its folder in `folder` is named by its lists. Raises TrainerError with pip's last lines.
    """
    lines = sorted(line for lines in found.there.values() for line in lines)
    made_for = [lines, found.pinned, sys.version, sysconfig.get_platform()]
    place = (folder / files.digest(made_for, KEY_DIGITS)).resolve()
    ready = place.with_suffix(".ready")
    python = place / "bin" / "python"
    lock = lock_file(place.with_suffix(".lock"), wait=True)  # another gate may be making it
    assert lock is not None
    with lock:
        if not (ready.exists() and python.exists()):
            say(f"installing the packages of {found.ref} in {place}")
            _install(found, lines, place, python)
            files.write_json(ready, made_for)
    return python


def installed_versions(python: Path) -> dict[str, str]:
    """The packages of a virtual environment."""
    folder = python.parent.parent
    place = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    return {_normal(one.name): one.version for one in metadata.distributions(path=[place])}


def version_differences(found: RefRequirements, python: Path) -> list[str]:
    """What the ref runs on in its own environment, where that is not what is installed here."""
    there = installed_versions(python)
    names = sorted({*found.here, *found.there})
    return [
        f"{name} {_version(name) or 'absent'} here, {there.get(name, 'absent')} there"
        for name in names
        if _version(name) != there.get(name)
    ]


def _install(found: RefRequirements, lines: Collection[str], place: Path, python: Path) -> None:
    """A fresh environment: one that was left half made is made anew.

    The pip here installs into it; where there is none, as in an environment made by uv, its own.
    """
    here = importlib.util.find_spec("pip") is not None
    without = ["--without-pip"] if here else []
    _run(found, [sys.executable, "-m", "venv", "--clear", *without, str(place)])
    files.write_text(place / "requirements.txt", _text(lines))
    files.write_text(place / "constraints.txt", _text(found.pinned))
    pip = [sys.executable, "-m", "pip", "--python"] if here else []
    pip += [str(python)] if here else [str(python), "-m", "pip"]
    pip += ["install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    pip += ["--requirement", str(place / "requirements.txt")]
    _run(found, [*pip, "--constraint", str(place / "constraints.txt")])


def _run(found: RefRequirements, command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        tail = [line for line in done.stdout.splitlines() if line.strip()][-PIP_LINES:]
        raise TrainerError(
            found.ref,
            "an environment with the packages that its pyproject.toml asks for",
            f"exit code {done.returncode} and:\n  " + "\n  ".join(tail) + "\n",
            "Correct what is named there, or share the packages that are installed here: "
            "--env current.",
        )


def _text(lines: Collection[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# --- what a pyproject.toml says -------------------------------------------------------------------


def _asked(checkout: Path, extras: Collection[str]) -> dict[str, list[str]]:
    """Requirement lines by package: the dependencies and these extras. Raises TrainerError."""
    project = _project(checkout)
    found: dict[str, set[str]] = {}
    for line in [*project.get("dependencies", []), *_lines_of(project, extras)]:
        name, rest = _name(line), NAME.sub("", " ".join(line.split()), count=1)
        found.setdefault(name, set()).add(SPACES.sub(r"\1", name + rest))
    return {name: sorted(lines) for name, lines in found.items()}


def _lines_of(project: Mapping[str, Any], extras: Collection[str]) -> list[str]:
    """The lines of these extras; where one names others of the same project, theirs too."""
    optional = project.get("optional-dependencies", {})
    own_name = _normal(str(project.get("name", "")))
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


def _project(checkout: Path) -> dict[str, Any]:
    """The table `project`; empty where there is no such file. Raises TrainerError."""
    path = checkout / "pyproject.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise TrainerError(str(path), "TOML", str(error), "Correct that line.") from error
    if "dependencies" in found.get("dynamic", []):
        raise TrainerError(
            str(path),
            "dependencies that stand in it, to be compared",
            "dynamic ones, which a build makes up",
            "Write them out under [project].",
        )
    return dict(found)


def _installed_extras(trainer: NativeTrainer) -> list[str]:
    """The trainer's extras whose packages are all installed here."""
    project = _project(trainer.checkout)
    found = []
    for extra in trainer.extras:
        everywhere = [line for line in _lines_of(project, [extra]) if ";" not in line]
        if everywhere and all(_version(_name(line)) is not None for line in everywhere):
            found.append(extra)
    return found


def _name(line: str) -> str:
    """The package of a requirement line."""
    match = NAME.match(line)
    return _normal(match[0]) if match else line


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str | None:
    """Of the package that is installed here."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _lines(lists: Lists, name: str) -> str:
    return " and ".join(lists.get(name, [])) or "none"
