"""What survives a search, as a patch of the base's file whose comments say the evidence.

A unified diff that `git apply` takes. Only lines that have to change do: ruamel writes the file
with the new values, and what differs from its own round trip of the old one is carried over to the
text as it was, so that comments, order, quotes, spaces and line ends of all other lines stay. Text
in, text out.
"""

import difflib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.compare.result import MetricResult
from harness.errors import ReportError
from harness.results.archive import strip_paths
from harness.results.study_plan import Arm
from harness.search.confirm import CONFIRM, NEXT
from harness.search.results import Claim, SearchResult
from harness.search.space import value_at

_NEVER_FOLDED = 1 << 16  # columns
_NO_NEWLINE = "\\ No newline at end of file"  # as git has it in a patch


def changes(claim: Claim, arm: Arm, base: Mapping[str, Any]) -> dict[str, Any]:
    """path -> value of everything in which a confirmed arm differs from its base by asking.

    What the base handed to it belongs to it too: with its own derived values it would be another
    configuration than the one that was confirmed.
    """
    asked = {**claim.pick.overrides, **{path: pin.base for path, pin in arm.pinned.items()}}
    return {path: value for path, value in asked.items() if value_at(base, path) != value}


def evidence(
    found: SearchResult, claim: Claim, seeds: Mapping[str, list[int]], also: Mapping[str, Any]
) -> list[str]:
    """What speaks for a candidate, a line each.

    `seeds`: of each look's study. `also`: what the search set beside it.
    """
    lines = [f"trial {claim.pick.number} of the search {found.search}, minus its base:"]
    if also:
        lines.append(
            "both with " + ", ".join(f"{path}={strip_paths(value)}" for path, value in also.items())
        )
    looks = ((CONFIRM, "the seeds", claim.confirm), (NEXT, "the next scale, seeds", claim.next))
    for at, when, seen in looks:
        for name, effect in (seen.effects if seen is not None else {}).items():
            shown = ", ".join(map(str, seeds[at]))
            lines.append(f"{name} on {when} {shown}: {_effect(effect)}")
    return lines


def _effect(effect: MetricResult) -> str:
    """An effect in its own scale, with interval, p and n."""
    if effect.estimate is None or effect.low is None or effect.high is None:
        return effect.missing or "no interval"
    scale = "ln " if effect.scale == "log" else ""
    return (
        f"{scale}{effect.estimate:+.4g} [{effect.low:+.4g}, {effect.high:+.4g}], "
        f"p = {effect.p or 0.0:.2g}, n = {effect.n_arm} against {effect.n_base}"
    )


def diff(text: str, wanted: Mapping[str, Any], comments: list[str], name: str) -> str:
    """The patch that gives a YAML text the wanted values. Raises ReportError.

    `name`: the file's path as the patch has it, relative to where it will be applied.
    """
    new = patched(text, wanted, comments, name)
    lines = difflib.unified_diff(
        _lines(text), _lines(new), fromfile=f"a/{name}", tofile=f"b/{name}"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}\n" for line in lines)


def patched(text: str, wanted: Mapping[str, Any], comments: list[str], name: str) -> str:
    """A YAML text with the wanted values; above the first changed line the comments.

    Raises ReportError where the file's form would not survive.
    """
    tree = _load(text.replace("\r\n", "\n"))
    plain = _lines(_dump(tree))
    for path, value in wanted.items():
        _assign(tree, path, value)
    new = _lines(_dump(tree))
    old = _lines(text)
    if len(plain) != len(old):
        raise ReportError(
            name,
            "a file that can be changed line by line",
            "values folded over several lines",
            "Unfold them, and report again; report.json has the values meanwhile.",
        )
    lines, told, end = [], False, _end(text)
    matcher = difflib.SequenceMatcher(a=plain, b=new, autojunk=False)
    for kind, first, last, to_first, to_last in matcher.get_opcodes():
        if kind == "equal":
            lines += old[first:last]
            continue
        indent = _indent(new[to_first]) if to_first < to_last else ""
        if not told:
            lines += [f"{indent}# {comment}{end}" for comment in comments]
            told = True
        lines += [line.replace("\n", end) for line in new[to_first:to_last]]
    whole = "".join(line if line.endswith("\n") else line + end for line in lines)
    return whole if text.endswith("\n") else whole.removesuffix(end)


def _lines(text: str) -> list[str]:
    """The lines as git counts them, with their ends."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _end(text: str) -> str:
    """What the lines of a text end with."""
    return "\r\n" if "\r\n" in text else "\n"


def relative_name(path: Path, root: Path) -> str:
    """A file's path as seen from a checkout, or its bare name where it lies outside."""
    inside = path.resolve().is_relative_to(root.resolve())
    return path.resolve().relative_to(root.resolve()).as_posix() if inside else path.name


def _assign(tree: Any, path: str, value: Any) -> None:
    head, _, rest = path.partition(".")
    if not rest:
        tree[head] = value
        return
    if not isinstance(tree.get(head), dict):
        tree[head] = {}
    _assign(tree[head], rest, value)


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = _NEVER_FOLDED
    return yaml


def _load(text: str) -> Any:
    tree = _yaml().load(text)
    return tree if tree is not None else {}


def _dump(tree: Any) -> str:
    out = io.StringIO()
    _yaml().dump(tree, out)
    return out.getvalue()


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
