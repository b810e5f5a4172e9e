"""`harness ci check`: own rules, GitHub's schema and zizmor's audit over workflows and actions.

The schema (check-jsonschema) and the audit (zizmor) come as wheels with the extra `ci` and work
offline. A tool that is missing or fails is an error: no check must not look like no finding.
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from harness.cli.github.rules import Finding, check_rules
from harness.cli.github.workflow_file import Tree, parse
from harness.errors import HarnessError, UsageError, WorkflowFileError

Findings = dict[Path, list[Finding]]

ALWAYS = {"excessive-permissions", "unpinned-images"}  # zizmor: high severity counts when pedantic
TIME_LIMIT_S = 120.0
INSTALL = (
    "Install both with `pip install 'speedrun-harness[ci]'`, or check by the own rules alone: "
    "`--no-audit`."
)
_OTHER_PEOPLES = {".git", ".venv", "node_modules"}  # folders with actions of other projects


def check(
    root: Path, paths: list[Path], *, audited: bool, strict: bool
) -> tuple[Findings, list[WorkflowFileError]]:
    """The findings of each file, and the errors of those that could not be read.

    Raises UsageError where there is no workflow, HarnessError where a tool fails.
    """
    paths = paths or repository_files(root)
    if not paths:
        hint = "Name the files or the repository, or write workflows with `harness ci init`."
        raise UsageError(str(root), "workflows under .github/workflows", "none", hint)
    trees: dict[Path, Tree] = {}
    errors = []
    for path in paths:
        try:
            trees[path] = parse(_read(path), str(path))
        except WorkflowFileError as error:
            errors.append(error)
    findings = {path: check_rules(tree) for path, tree in trees.items()}
    if audited:
        actions = sorted(path for path, tree in trees.items() if "runs" in tree)
        audit(findings, actions, strict=strict)
    return findings, errors


def repository_files(root: Path) -> list[Path]:
    """The workflows of a repository, then its composite actions."""
    workflows = [*root.glob(".github/workflows/*.yml"), *root.glob(".github/workflows/*.yaml")]
    actions = [*root.glob("**/action.yml"), *root.glob("**/action.yaml")]
    return sorted(workflows) + sorted(
        path for path in actions if not set(path.relative_to(root).parts) & _OTHER_PEOPLES
    )


def audit(findings: Findings, actions: list[Path], *, strict: bool = False) -> None:
    """Adds the findings of schema and zizmor. Raises HarnessError."""
    workflows = [path for path in findings if path not in actions]
    for schema, paths in (("github-workflows", workflows), ("github-actions", actions)):
        if paths:
            _check_schema(findings, f"vendor.{schema}", paths)
    unreadable = {"schema", "malformed-uses"}  # zizmor stops at a file that it cannot read
    sound = [
        path for path, found in findings.items() if not unreadable & {one.rule for one in found}
    ]
    if sound:
        _check_zizmor(findings, sound, strict=strict)


def _check_schema(findings: Findings, schema: str, paths: list[Path]) -> None:
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    argv += ["--output-format", "json", *map(str, paths)]
    answer = _json_of("check-jsonschema", argv, accepted=(0, 1))
    for error in [*answer.get("errors", []), *answer.get("parse_errors", [])]:
        # the alternative of the schema that fits best has the most useful message
        best = {"path": "$", **error, **error.get("best_deep_match", {})}
        findings[Path(error["filename"])].append(
            Finding(
                rule="schema",
                line=1,
                reason=f"{best['path'].removeprefix('$.')}: "
                + best["message"].strip().partition("\n")[0],
                hint="See the workflow syntax in GitHub's documentation.",
            )
        )


def _check_zizmor(findings: Findings, paths: list[Path], *, strict: bool) -> None:
    program = Path(sysconfig.get_path("scripts")) / "zizmor"
    argv = [str(program), "--offline", "--no-config", "--quiet", "--strict-collection"]
    argv += ["--format", "json", "--persona", "auditor", *map(str, paths)]
    for one in _json_of("zizmor", argv, accepted=(0, *range(10, 15))):  # 10-14: with findings
        rating = one["determinations"]
        counts = rating["persona"] == "Regular" or (
            one["ident"] in ALWAYS and rating["severity"] == "High"
        )
        if one["ignored"] or not (strict or counts):
            continue
        places = one["locations"]
        place = next((at for at in places if at["symbolic"]["kind"] == "Primary"), places[0])
        findings[Path(place["symbolic"]["key"]["Local"]["verbatim_path"])].append(
            Finding(
                rule=f"zizmor/{one['ident']}",
                line=place["concrete"]["location"]["start_point"]["row"] + 1,
                reason=f"{one['desc']}: {place['symbolic']['annotation']}",
                hint=f"See {one['url']}; if it is intended, give the reason on that line: "
                f"`# zizmor: ignore[{one['ident']}] <reason>`.",
            )
        )


def _json_of(tool: str, argv: list[str], accepted: tuple[int, ...]) -> Any:
    """The JSON that a tool prints. Raises HarnessError where it prints none."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
        )
    except FileNotFoundError:
        raise HarnessError(tool, "an installed tool", "none", INSTALL) from None
    except subprocess.TimeoutExpired:
        got = f"no answer within {TIME_LIMIT_S:.0f} s"
        raise HarnessError(tool, "findings in JSON", got, INSTALL) from None
    if "No module named" in done.stderr and not done.stdout:
        raise HarnessError(tool, "an installed tool", "none", INSTALL)
    try:
        if done.returncode in accepted:
            return json.loads(done.stdout)
    except ValueError:
        pass
    output = (done.stderr.strip() or done.stdout.strip())[-500:]
    raise HarnessError(
        tool, "findings in JSON", f"exit code {done.returncode} and: {output}", INSTALL
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        got = (error.strerror if isinstance(error, OSError) else None) or str(error)
        hint = "Name another file, or repair this one."
        raise WorkflowFileError(str(path), "a workflow file in UTF-8", got, hint) from None
