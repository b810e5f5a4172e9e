"""Commands in README.md, docs/, ci/README.md and CONTRIBUTING.md work as written.

Every command is parsed by its own parser; where it has a dry run that needs no data and no GPU,
that is run too. Arguments in capitals and `...` stand for something else.
"""

import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.core import TyperGroup

from harness.cli.app import app
from harness.config.study_file import parse_study
from tests.fixtures import warm_python

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "ci/README.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")
))  # fmt: skip
STARTS = re.compile(r"(?:\$ )?(?:git bisect run )?(harness|make|(?:python|torchrun\b.*?) -m) ")
FILES = re.compile(r"(?:ablations|baselines|benchmarks/records|docs)/[\w./-]+$")
PASS, COULD_NOT_RUN = 0, 4


class Written(NamedTuple):
    """A command of a page; `whole` where it stands in a block of commands."""

    page: str
    text: str
    whole: bool

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def written() -> list[Written]:
    """Every command of every page, once."""
    found: dict[str, Written] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^ *```(?:sh|bash|console)\n(.*?)^ *```", text, re.M | re.S)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
        inline = re.findall(r"`([^`]+)`", prose.replace("\n", " "))
        for line, whole in [*((line, True) for line in lines), *((one, False) for one in inline)]:
            for part in line.split("&&"):
                plain = re.sub(r"\.venv/bin/|^python3 ", "", part.strip())
                if match := STARTS.match(plain + " "):
                    command = plain[match.start(1) :]
                    found.setdefault(command, Written(page, command, whole))
    return list(found.values())


WRITTEN = written()
HARNESS = [one for one in WRITTEN if one.arguments[0] == "harness"]
MODULES = [one for one in WRITTEN if "-m" in one.arguments]
RUN = {  # command of the harness -> what makes it a dry run, and the exit codes that are right then
    "study": (["--dry-run", "--no-measure"], {PASS}),
    "full": (["--dry-run"], {PASS, COULD_NOT_RUN}),  # 4 where the machine lacks what the job needs
    "search": (["--dry-run"], {PASS, COULD_NOT_RUN}),
    "report": (["--no-html"], {PASS}),
    "noise": ([], {PASS}),
}


def test_pages_have_commands_of_every_kind() -> None:
    assert len(HARNESS) > 30
    assert len(MODULES) > 15
    named = {one.arguments[1] for one in HARNESS if len(one.arguments) > 1}
    assert {"study", "compare", "gate", "search", "full", "submit", "ci", "drift"} <= named


def parse(arguments: list[str]) -> None:
    """Parses a command line of the harness without running it."""
    command, name, rest, context = typer.main.get_command(app), "harness", list(arguments), None
    while True:
        context = command.make_context(name, rest, parent=context)
        if not isinstance(command, TyperGroup):
            return
        name, command, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )


def command_of(arguments: list[str]) -> Any:
    """The innermost command that the arguments name."""
    command = typer.main.get_command(app)
    for argument in arguments:
        if isinstance(command, TyperGroup):
            found = command.get_command(None, argument)
            assert found is not None, f"no such command: {argument}"
            command = found
    return command


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}


@pytest.mark.parametrize("one", HARNESS, ids=lambda one: f"{one.page}: {one.text}")
def test_the_command_line_is_accepted(one: Written) -> None:
    arguments = one.arguments[1:]
    if one.whole:
        parse(arguments)
        return
    before = arguments[: arguments.index("--")] if arguments[:1] == ["submit"] else arguments
    known = options_of(command_of(arguments))
    assert [word for word in before if word.startswith("--") and len(word) > 2 and
            word.partition("=")[0] not in known] == []  # fmt: skip


@pytest.mark.parametrize("one", WRITTEN, ids=lambda one: f"{one.page}: {one.text}")
def test_files_of_the_repository_exist(one: Written) -> None:
    named = [word for word in one.arguments if FILES.match(word)]
    outputs = {value for flag, value in zip(one.arguments, one.arguments[1:], strict=False)
               if flag in ("--out", "--write")}  # fmt: skip
    assert [word for word in named if word not in outputs and not (ROOT / word).exists()] == []


@cache
def help_of(module: str) -> str:
    done = warm_python.run(["-m", *module.split(), "--help"])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("one", MODULES, ids=lambda one: f"{one.page}: {one.text}")
def test_a_module_exists_and_has_the_options(one: Written) -> None:
    rest = one.arguments[one.arguments.index("-m") + 1 :]
    if rest[0] in ("venv", "pip", "pytest"):
        return
    module = " ".join(rest[:2]) if rest[0] == "model.data" and len(rest) > 1 else rest[0]
    options = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert [option for option in options if option not in help_of(module)] == []


def runnable() -> list[Written]:
    """Commands with a dry run, whose files are all in the repository."""
    found = [
        one
        for one in HARNESS
        if one.whole and one.arguments[1] in RUN and not any(
            word.endswith((".yaml", ".yml")) and not (ROOT / word).exists()
            for word in one.arguments
        )
    ]  # fmt: skip
    first = {tuple(one.arguments[1:3]): one for one in reversed(found)}  # one a command and file
    return [one for one in first.values() if one.arguments[1:] != ["report", "my-idea"]]


@pytest.mark.parametrize("one", runnable(), ids=lambda one: one.text)
def test_the_dry_run_runs(one: Written, tmp_path: Path) -> None:
    more, codes = RUN[one.arguments[1]]
    arguments = [word for word in one.arguments[1:] if word not in ("--proxies", "--preflight")]
    if "--store" in arguments:
        place = arguments.index("--store") + 1
        shutil.copytree(ROOT / arguments[place], tmp_path / "store")
        arguments[place] = str(tmp_path / "store")
    else:
        arguments += ["--store", str(tmp_path / "store")]
    arguments += [word for word in more if word not in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode in codes, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "one",
    [one for one in MODULES if "model.describe" in one.arguments and one.whole],
    ids=lambda one: one.text,
)
def test_a_description_needs_no_data_and_no_gpu(one: Written) -> None:
    done = subprocess.run(
        [sys.executable, *one.arguments[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_make_has_the_targets_that_pages_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for one in WRITTEN:
        if one.arguments[0] == "make":
            targets = [word for word in one.arguments[1:] if "=" not in word]
            assert [t for t in targets if f"\n{t}:" not in makefile] == [], one


def test_study_files_in_pages_are_valid() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in re.findall(r"^```yaml\n(study: .*?)^```", text, re.M | re.S):
            assert parse_study(block, page).study
