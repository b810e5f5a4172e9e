"""A confirmed candidate as a patch of the base's file, with the evidence in its comments.

The patch is a unified diff for `git apply` that changes as few lines as possible. ruamel.yaml
writes the file with the new values, and the lines in which this differs from its round trip of the
unchanged file are applied to the original text. All other lines keep their comments, order, quotes,
spaces and line ends.
"""

import difflib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.comparison.result import MetricResult
from harness.errors import ReportError
from harness.results.archive import strip_paths
from harness.results.store import Store
from harness.results.study_plan import Arm
from harness.runner.trainer import value_at
from harness.search.confirm import CONFIRM, NEXT
from harness.search.plan import SearchPlan
from harness.search.results import CandidateResult, SearchResult

_NEVER_FOLDED = 1 << 16  # columns
_NO_NEWLINE = "\\ No newline at end of file"  # as git writes it


def candidate_patches(
    plan: SearchPlan, result: SearchResult, store: Store
) -> dict[str, str | ReportError]:
    """A patch of the base's file for each confirmed candidate, by arm; or why there is none."""
    base_file = Path(plan.base_file)
    text = base_file.read_bytes().decode("utf-8")  # bytes: line ends stay as they are
    name = relative_name(base_file, plan.trainer.checkout)
    studies = {at: store.study(study) for at, study in result.studies.items()}
    seeds = {at: study.seeds for at, study in studies.items()}
    patches: dict[str, str | ReportError] = {}
    for one in result.confirmed:
        arm = one.candidate.arm
        values = changes(one, studies[CONFIRM].arm(arm), plan.base.config)
        comments = evidence(result, one, seeds, plan.file.set)
        try:
            patches[arm] = diff(text, values, comments, name)
        except ReportError as error:
            patches[arm] = error
    return patches


def changes(one: CandidateResult, arm: Arm, base: Mapping[str, Any]) -> dict[str, Any]:
    """path -> value for every setting in which a confirmed arm differs from its base.

    Values pinned from the base are included: with its own derived values the configuration would
    differ from the confirmed one.
    """
    values = {**one.candidate.overrides, **{path: pin.base for path, pin in arm.pinned.items()}}
    return {path: value for path, value in values.items() if value_at(base, path) != value}


def evidence(
    result: SearchResult,
    one: CandidateResult,
    seeds: Mapping[str, list[int]],
    common: Mapping[str, Any],
) -> list[str]:
    """The comments of a patch: one line for each effect.

    `seeds`: of the confirmation study, by scale. `common`: overrides of base and trials alike.
    """
    lines = [f"trial {one.candidate.number} of the search {result.search}, minus its base:"]
    if common:
        values = ", ".join(f"{path}={strip_paths(value)}" for path, value in common.items())
        lines.append(f"both with {values}")
    scales = ((CONFIRM, "seeds", one.confirmation), (NEXT, "the next scale, seeds", one.next))
    for at, where, confirmation in scales:
        for name, effect in (confirmation.effects if confirmation is not None else {}).items():
            shown = ", ".join(map(str, seeds[at]))
            lines.append(f"{name} on {where} {shown}: {_effect(effect)}")
    return lines


def _effect(effect: MetricResult) -> str:
    """An effect with interval, p and n; logarithmic ones as natural logarithms."""
    if effect.estimate is None or effect.low is None or effect.high is None:
        return effect.missing or "no interval"
    scale = "ln " if effect.scale == "log" else ""
    return (
        f"{scale}{effect.estimate:+.4g} [{effect.low:+.4g}, {effect.high:+.4g}], "
        f"p = {effect.p or 0.0:.2g}, n = {effect.n_arm} against {effect.n_base}"
    )


def diff(text: str, values: Mapping[str, Any], comments: list[str], name: str) -> str:
    """The patch that sets values in a YAML text. Raises ReportError.

    `name`: the file's path in the patch, relative to where it will be applied.
    """
    new = patched(text, values, comments, name)
    lines = difflib.unified_diff(
        _lines(text), _lines(new), fromfile=f"a/{name}", tofile=f"b/{name}"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}\n" for line in lines)


def patched(text: str, values: Mapping[str, Any], comments: list[str], name: str) -> str:
    """A YAML text with the values set, and the comments above the first changed line.

    Raises ReportError if the file cannot be changed line by line.
    """
    tree = _load(text.replace("\r\n", "\n"))
    plain = _lines(_dump(tree))
    for path, value in values.items():
        _assign(tree, path, value)
    new = _lines(_dump(tree))
    old = _lines(text)
    if len(plain) != len(old):
        expected = "a file that can be changed line by line"
        hint = "Write each value on one line and report again; report.json has the values."
        raise ReportError(name, expected, "values folded over several lines", hint)
    lines, commented, end = [], False, "\r\n" if "\r\n" in text else "\n"
    matcher = difflib.SequenceMatcher(a=plain, b=new, autojunk=False)
    for kind, first, last, to_first, to_last in matcher.get_opcodes():
        if kind == "equal":
            lines += old[first:last]
            continue
        indent = _indent(new[to_first]) if to_first < to_last else ""
        if not commented:
            lines += [f"{indent}# {comment}{end}" for comment in comments]
            commented = True
        lines += [line.replace("\n", end) for line in new[to_first:to_last]]
    whole = "".join(line if line.endswith("\n") else line + end for line in lines)
    return whole if text.endswith("\n") else whole.removesuffix(end)


def _lines(text: str) -> list[str]:
    """The lines as git counts them, with their line ends."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def relative_name(path: Path, root: Path) -> str:
    """A file's path relative to a checkout, or its name if it lies outside."""
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
