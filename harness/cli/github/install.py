"""`harness ci init` and `harness ci update`: workflows written into a repository and kept current.

`init` writes the templates and records in .github/harness-ci.json what it wrote. `update` merges
newer templates into the files by `git merge-file --ours` of three texts: the owner's file, the
template that it was written from, and the template of this version. So the owner's steps, changes
and comments stay byte for byte, the rest follows the template, and where both changed the same
place the owner's version stays and is reported. All files are merged and parsed before one is
written.
"""

import json
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness import files
from harness.cli.github.workflow_file import check_no_anchors, parse
from harness.errors import HarnessError, UsageError, WorkflowFileError

FORMAT = 1
DISTRIBUTION = "speedrun-harness"
TEMPLATES = Path(__file__).with_name("templates")
STATE = Path(".github/harness-ci.json")
FILES = {
    "harness-gate.yml": Path(".github/workflows/harness-gate.yml"),
    "harness-nightly.yml": Path(".github/workflows/harness-nightly.yml"),
    "harness-baseline.yml": Path(".github/workflows/harness-baseline.yml"),
    "harness-label.yml": Path(".github/workflows/harness-label.yml"),
    "action.yml": Path(".github/actions/harness-gate/action.yml"),
}
"""The path of each template in a repository, in the order in which to read them."""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `init`, which later updates use again."""

    runner: tuple[str, ...] = ("self-hosted", "gpu")  # labels of the runner with the GPU
    baseline: str = "speedrun"
    config: str = "ablations/configs/speedrun.yaml"  # of the nightly run and of new baselines
    editable: bool = True  # the repository is a clone of the harness, and its own code is installed


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What was written last; `update` derives from it what the owner has changed since."""

    format: int = FORMAT
    choices: Choices
    files: dict[str, str]  # path -> text of the template as written


class Change(NamedTuple):
    """One file after a merge: `text` is None where the file stays as it is."""

    path: Path
    text: str | None
    action: str  # "written", "updated" or "unchanged"
    taken: Sequence[str] = ()  # places that follow the new template
    kept: Sequence[str] = ()  # places where the owner's version differs from the new template


def init(root: Path, choices: Choices) -> list[Change]:
    """Writes the workflows. Raises UsageError where one of the files exists already."""
    _check_choices(choices)
    if (root / STATE).exists():
        expected = "a repository without workflows of the harness"
        got = "one that has them"
        raise UsageError(str(STATE), expected, got, "Update them with `harness ci update`.")
    texts = {path: render(name, choices) for name, path in FILES.items()}
    for path in texts:
        if (root / path).exists():
            expected = "no such file yet"
            hint = "Move or rename it, then run the command again. No file was written."
            raise UsageError(str(path), expected, "one that `harness ci init` did not write", hint)
    changes = [Change(path, texts[path], "written") for path in texts]
    return _write(root, choices, texts, changes)


def update(root: Path) -> list[Change]:
    """Merges the templates of this version into the files of a repository."""
    state = _read_state(root)
    texts = {path: render(name, state.choices) for name, path in FILES.items()}
    changes = [
        _merged(root, path, state.files.get(path.as_posix()), text) for path, text in texts.items()
    ]
    return _write(root, state.choices, texts, changes)


def render(name: str, choices: Choices) -> str:
    """The text of a template with the choices in the place of the defaults."""
    text, default = (TEMPLATES / name).read_text(encoding="utf-8"), Choices()
    for key, old, new in (
        (
            "runs-on",
            f"[{', '.join(default.runner)}]",
            f"[{', '.join(map(_scalar, choices.runner))}]",
        ),
        ("HARNESS_BASELINE", default.baseline, _scalar(choices.baseline)),
        ("HARNESS_CONFIG", default.config, _scalar(choices.config)),
        ("default", default.baseline, _scalar(choices.baseline)),
    ):
        text = text.replace(f" {key}: {old}", f" {key}: {new}")
    return text if choices.editable else text.replace(" -e '.[", f" '{DISTRIBUTION}[")


def is_clone(root: Path) -> bool:
    """Whether a repository is a clone of the harness itself."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(project.get("project", {}).get("name") == DISTRIBUTION)


def _scalar(value: str) -> str:
    """A string as a YAML scalar, quoted where YAML could read it as something else."""
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", value)
    reserved = value.lower() in ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
    return value if plain and not reserved else json.dumps(value)


def _check_choices(choices: Choices) -> None:
    for option, values in (
        ("--runner", choices.runner),
        ("--baseline", (choices.baseline,)),
        ("--config", (choices.config,)),
    ):
        for value in values:
            if not value.strip() or any(character in value for character in "\n\r${}"):
                hint = "Leave out line breaks, $ and braces: a workflow would evaluate them."
                raise UsageError(option, "one line of plain text", repr(value), hint)


def _merged(root: Path, path: Path, base: str | None, new: str) -> Change:
    """One file after an update. A file that its owner removed is not written again."""
    try:
        current = (root / path).read_bytes().decode()
    except FileNotFoundError:
        if base is None:
            return Change(path, new, "written")
        return Change(path, None, "unchanged", kept=["(you removed the file)"] * (base != new))
    except UnicodeDecodeError as error:
        raise WorkflowFileError(str(path), "UTF-8", str(error), "Save it as UTF-8.") from None
    before = parse(current, str(path))
    if base == new:
        return Change(path, None, "unchanged")
    check_no_anchors(current, str(path))
    text = three_way_merge(current, base or "", new)
    old = leaves(parse(base, f"{STATE}: {path}")) if base else {}
    own, after, wanted = map(leaves, (before, parse(text, str(path)), parse(new, path.name)))
    return Change(
        path,
        None if text == current else text,
        "unchanged" if text == current else "updated",
        taken=[place for place in {**own, **after} if own.get(place) != after.get(place)],
        kept=[
            place
            for place in {**old, **wanted}
            if old.get(place) != wanted.get(place) and after.get(place) != wanted.get(place)
        ],
    )


def three_way_merge(current: str, base: str, new: str) -> str:
    """`current` with the changes from `base` to `new`; where both changed, `current` wins.

    Raises HarnessError where git is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("current", "base", "new")]
        for path, text in zip(paths, (current, base, new), strict=True):
            path.write_bytes(text.encode())
        try:
            done = subprocess.run(
                ["git", "merge-file", "--stdout", "--ours", *map(str, paths)],
                capture_output=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise HarnessError(
                "git", "git merge-file to merge the files", str(error), "Install git."
            ) from None
    return done.stdout.decode()


def leaves(tree: Any, place: str = "") -> dict[str, Any]:
    """Every value by its place, such as `jobs.gate.steps.harness-gate.uses`.

    A step is known by its id, its name or else its text, so that other steps may stand around it.
    """
    if isinstance(tree, dict):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list) and any(isinstance(one, dict) for one in tree):
        items = [
            (str(one.get("id") or one.get("name") or dict(one)), one)
            if isinstance(one, dict)
            else (str(one), one)
            for one in tree
        ]
    else:
        return {place: tree}
    found = {}
    for key, value in items:
        found.update(leaves(value, f"{place}.{key}" if place else key))
    return found or {place: tree}


def _write(
    root: Path, choices: Choices, texts: dict[Path, str], changes: list[Change]
) -> list[Change]:
    for change in changes:
        if change.text is not None:
            files.write_bytes(root / change.path, change.text.encode())
    state = State(choices=choices, files={path.as_posix(): text for path, text in texts.items()})
    data = msgspec.json.format(msgspec.json.encode(state), indent=1)
    files.write_bytes(root / STATE, data + b"\n")
    return changes


def _read_state(root: Path) -> State:
    path = root / STATE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        expected = "the file that `harness ci init` writes"
        hint = "Run `harness ci init` in the top folder of the repository first."
        raise UsageError(str(path), expected, "no such file", hint) from None
    except msgspec.DecodeError as error:
        expected = "the file as `harness ci` wrote it"
        hint = "Restore it from git: it separates your changes from the template's."
        raise WorkflowFileError(str(path), expected, str(error), hint) from None
    if state.format > FORMAT:
        expected = f"format {FORMAT} or older"
        hint = "A newer harness wrote it: upgrade this one."
        raise WorkflowFileError(str(path), expected, f"format {state.format}", hint)
    return state
