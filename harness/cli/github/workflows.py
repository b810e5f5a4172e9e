"""Writes workflows into a repository, keeps them up to date, and says what is wrong with them.

    init     writes what is not there, and remembers in .github/harness-ci.json what it wrote
    update   brings newer templates into the files, around what their owners changed (`merge`)
    check    own rules, schema and zizmor over every workflow and action of the repository
    results  a gate's JSON as annotations and JUnit

Every file is worked out before the first is written, so that a refusal leaves all as they were.
What the commands `harness ci ...` do; after everything about CI.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import errors
from harness import files as atomic
from harness.cli.github.audit import audit
from harness.cli.github.file import Tree, comments, parse, parse_for_change
from harness.cli.github.merge import Merged, merge
from harness.cli.github.rules import HOSTED, Refusal, refusals
from harness.errors import UsageError, WorkflowFileError
from harness.report.gate import ci_formats

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = 1
TEMPLATES = Path(__file__).with_name("templates")
MEMORY = Path(".github/harness-ci.json")
WORKFLOWS, ACTIONS = Path(".github/workflows"), Path(".github/actions")
FILES = {
    "harness-gate.yml": WORKFLOWS / "harness-gate.yml",
    "harness-nightly.yml": WORKFLOWS / "harness-nightly.yml",
    "harness-baseline.yml": WORKFLOWS / "harness-baseline.yml",
    "action.yml": ACTIONS / "harness-gate/action.yml",
}
"""Where each template goes, in the order in which a maintainer should read them."""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What `init` was told; later updates keep to it."""

    runner: tuple[str, ...] = ("self-hosted", "gpu")  # labels of the machine with the GPU
    baseline: str = "speedrun"
    config: str = "ablations/configs/speedrun.yaml"  # of the nightly record and of new baselines


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, so that a later update knows what the owner changed since."""

    format: int = FORMAT
    choices: Choices
    files: dict[str, str]  # path -> the text as the template had it


@dataclass(frozen=True)
class Change:
    """One file as it is going to be: `text` None where it stays as it is."""

    path: Path
    text: str | None
    was_there: bool
    merged: Merged


def init(console: "Console", root: Path, choices: Choices) -> int:
    """Writes the workflows into a repository. Raises UsageError where they are there already."""
    _checked(choices)
    _refuse_memory(root)
    texts = _texts(choices)
    changes = [_initial(root, path, text) for path, text in texts.items()]
    return _write(console, root, changes, Memory(choices=choices, files=_named(texts)))


def update(console: "Console", root: Path) -> int:
    """Brings the templates of this version into a repository's files."""
    memory = _memory(root)
    texts = _texts(memory.choices)
    changes = [
        _updated(root, path, memory.files.get(path.as_posix(), ""), text)
        for path, text in texts.items()
    ]
    return _write(console, root, changes, Memory(choices=memory.choices, files=_named(texts)))


def check(console: "Console", root: Path, files: list[Path], *, audited: bool, strict: bool) -> int:
    """Prints what speaks against each file; 0 where nothing does, else 2."""
    paths = files or _of_repository(root)
    if not paths:
        raise UsageError(
            str(root),
            f"workflows under {WORKFLOWS}",
            "none",
            "Name the files or the repository, or write workflows with `harness ci init`.",
        )
    found, broken = _judged(paths, audited, strict)
    for path in paths:
        for one in sorted(found.get(path, []), key=lambda one: one.line):
            console.print(
                f"{path}:{one.line}: refused ({one.rule}): {one.reason}.\n    {one.hint}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    for error in broken:
        console.print(f"refused: {error}", markup=False, highlight=False, soft_wrap=True)
    number = sum(len(one) for one in found.values()) + len(broken)
    looked = "own rules, schema, zizmor" if audited else "own rules alone"
    console.print(f"files: {len(paths)}; findings: {number} ({looked})", highlight=False)
    return errors.USAGE if number else errors.PASS


def results(
    console: "Console", source: Path, *, exit_code: int | None, xml: Path | None, word: Path | None
) -> int:
    """Prints a gate's annotations; writes its JUnit file and the word of its verdict."""
    found = ci_formats.read(source, exit_code)
    for line in ci_formats.annotations(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if xml is not None:
        atomic.write_text(xml, ci_formats.junit(found))
    if word is not None:
        atomic.write_text(word, found.outcome + "\n")
    return errors.PASS


def rendered(name: str, choices: Choices) -> str:
    """The text of a template with the choices filled in."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    template = parse_for_change(text, name)
    tree = template.tree
    for job in tree.get("jobs", {}).values():
        if not HOSTED.fullmatch(str(job["runs-on"])):
            _refill(job["runs-on"], choices.runner)
    environment = tree.get("env", {})
    for key, value in (("BASELINE", choices.baseline), ("CONFIG", choices.config)):
        if f"HARNESS_{key}" in environment:
            environment[f"HARNESS_{key}"] = value
    inputs = tree.get("on", {}).get("workflow_dispatch")
    if inputs:
        inputs["inputs"]["name"]["default"] = choices.baseline
    return template.text()


def _texts(choices: Choices) -> dict[Path, str]:
    return {path: rendered(name, choices) for name, path in FILES.items()}


def _named(texts: dict[Path, str]) -> dict[str, str]:
    return {path.as_posix(): text for path, text in texts.items()}


def _refill(labels: Any, chosen: tuple[str, ...]) -> None:
    labels.clear()
    labels.extend(chosen)


def _checked(choices: Choices) -> None:
    words = {
        "--runner": choices.runner,
        "--baseline": (choices.baseline,),
        "--config": (choices.config,),
    }
    for option, values in words.items():
        for value in values:
            if not value.strip() or any(sign in value for sign in "\n\r${}"):
                raise UsageError(
                    option,
                    "a plain word",
                    repr(value),
                    "A workflow would read it as something else.",
                )


def _initial(root: Path, path: Path, text: str) -> Change:
    if (root / path).exists():
        raise UsageError(
            str(path),
            "no such file yet",
            "one that `harness ci init` did not write",
            "Move it away or rename it, then run this again. Nothing was written.",
        )
    return Change(path, text, False, Merged())


def _updated(root: Path, path: Path, was: str, now: str) -> Change:
    """One file after an update. A file that its owner removed stays away."""
    try:
        text = (root / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        gone = Merged(kept=["(you removed the file)"] if was and was != now else [])
        return Change(path, None if was else now, False, gone)
    except UnicodeDecodeError as error:
        raise WorkflowFileError(str(path), "UTF-8", str(error), "Save it as UTF-8.") from None
    mine = parse_for_change(text, str(path))
    before: Tree = parse(was, f"{MEMORY}: {path}") if was else {}
    merged = merge(mine.tree, before, parse(now, path.name))
    if not merged.taken:  # then not one byte changes
        return Change(path, None, True, merged)
    after = mine.text()
    _keep_comments(text, was, after, path)
    parse(after, str(path))
    return Change(path, after, True, merged)


def _keep_comments(before: str, template: str, after: str, path: Path) -> None:
    lost = comments(before) - comments(after) - comments(template)
    if lost:
        raise WorkflowFileError(
            str(path),
            "every comment of yours to survive the update",
            f"no place any more for {sorted(lost)[0]!r}",
            "It stands at a part that the template no longer has: move it, then run this "
            "again. Nothing was written.",
        )


def _write(console: "Console", root: Path, changes: list[Change], memory: Memory) -> int:
    for change in changes:
        if change.text is not None:
            atomic.write_text(root / change.path, change.text)
        _tell(console, change)
    data = msgspec.json.format(msgspec.json.encode(memory), indent=1)
    atomic.write_bytes(root / MEMORY, data + b"\n")
    return errors.PASS


def _tell(console: "Console", change: Change) -> None:
    word = "unchanged" if change.text is None else "updated" if change.was_there else "written"
    lines = [f"{word:10} {change.path}"]
    lines += [f"    from the template: {place}" for place in change.merged.taken]
    lines += [f"    yours stands, the template differs: {place}" for place in change.merged.kept]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _refuse_memory(root: Path) -> None:
    if (root / MEMORY).exists():
        raise UsageError(
            str(MEMORY),
            "a repository without workflows of the harness",
            "one that has them",
            "Bring them up to date with `harness ci update`.",
        )


def _memory(root: Path) -> Memory:
    path = root / MEMORY
    try:
        memory = msgspec.json.decode(path.read_bytes(), type=Memory)
    except FileNotFoundError:
        raise UsageError(
            str(path),
            "the file that `harness ci init` leaves",
            "none",
            "Run `harness ci init` in the top folder of the repository first.",
        ) from None
    except msgspec.DecodeError as error:
        raise WorkflowFileError(
            str(path),
            "the file as `harness ci` wrote it",
            str(error),
            "Restore it from git: it tells your changes from the template's.",
        ) from None
    if memory.format > FORMAT:
        raise WorkflowFileError(
            str(path),
            f"format {FORMAT} or older",
            f"format {memory.format}",
            "It was written by a newer harness: update this one.",
        )
    return memory


def _of_repository(root: Path) -> list[Path]:
    workflows = [path for end in ("yml", "yaml") for path in (root / WORKFLOWS).glob(f"*.{end}")]
    actions = [path for end in ("yml", "yaml") for path in root.glob(f"**/action.{end}")]
    return sorted(workflows) + sorted(
        path for path in actions if not set(path.relative_to(root).parts) & _NOT_OURS
    )


_NOT_OURS = {".git", ".venv", "node_modules"}  # folders that hold other people's actions


def _judged(
    paths: list[Path], audited: bool, strict: bool
) -> tuple[dict[Path, list[Refusal]], list[WorkflowFileError]]:
    """Findings by file, and what kept files from being read."""
    found: dict[Path, list[Refusal]] = {}
    broken, actions = [], set()
    for path in paths:
        try:
            tree = parse(_text(path), str(path))
        except WorkflowFileError as error:
            broken.append(error)
            continue
        found[path] = refusals(tree)
        if "runs" in tree:
            actions.add(path)
    if audited:
        workflows = [path for path in found if path not in actions]
        for path, more in audit(workflows, sorted(actions), strict=strict).items():
            found[path] += more
    return found, broken


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkflowFileError(
            str(path),
            "a workflow file in UTF-8",
            str(error),
            "Name another file, or repair this one.",
        ) from None
