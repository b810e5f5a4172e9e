"""What others know about workflows: the schema of `check-jsonschema` and the audit of `zizmor`.

Both come as wheels (the extra `ci`) and work offline. Each is asked as a process and answers in
JSON. A tool that is missing, or that dies, is an error: a check that did not look must not read as
one that found nothing. After `rules`, whose findings these join.
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from harness.cli.github.rules import Refusal
from harness.errors import HarnessError

Found = dict[Path, list[Refusal]]

SCHEMAS = {"workflow": "vendor.github-workflows", "action": "vendor.github-actions"}
PERSONAS = {False: "regular", True: "auditor"}  # the strict one takes style for a finding too
LIMIT_S = 120.0
_ZIZMOR_FOUND = range(10, 15)  # it exits with one of these where it found something
INSTALL = "Install both with `pip install '.[ci]'`, or check by the own rules alone: `--no-audit`."


def audit(workflows: list[Path], actions: list[Path], *, strict: bool = False) -> Found:
    """What schema and audit find in files that are YAML. Raises HarnessError."""
    found: Found = {path: [] for path in (*workflows, *actions)}
    for kind, paths in (("workflow", workflows), ("action", actions)):
        if paths:
            for path, refusal in _schema(kind, paths):
                found[path].append(refusal)
    sound = [path for path, refusals in found.items() if not refusals]
    if sound:  # zizmor would pass over a file that breaks the schema
        for path, refusal in _zizmor(sound, PERSONAS[strict]):
            found[path].append(refusal)
    return found


def _schema(kind: str, paths: list[Path]) -> list[tuple[Path, Refusal]]:
    program = [sys.executable, "-m", "check_jsonschema"]
    words = ["--builtin-schema", SCHEMAS[kind], "--output-format", "json", *map(str, paths)]
    answer = _ask("check-jsonschema", [*program, *words], accepted=(0, 1))
    return [
        (
            Path(error["filename"]),
            Refusal(
                rule="schema",
                line=1,
                reason=f"{error['path'].removeprefix('$.')}: {_first_line(error['message'])}",
                hint="Write it as GitHub's documentation of workflow syntax has it.",
            ),
        )
        for error in _deepest(answer)
    ]


def _deepest(answer: Any) -> list[dict[str, str]]:
    """Each error of a schema where it says most: inside the alternative that fits best."""
    errors = [*answer.get("errors", []), *answer.get("parse_errors", [])]
    return [
        {"path": "$", **error, **error.get("best_deep_match", {}), "filename": error["filename"]}
        for error in errors
    ]


def _zizmor(paths: list[Path], persona: str) -> list[tuple[Path, Refusal]]:
    program = Path(sysconfig.get_path("scripts")) / "zizmor"
    words = ["--offline", "--no-config", "--quiet", "--strict-collection"]
    words += ["--format", "json", "--persona", persona, *map(str, paths)]
    answer = _ask("zizmor", [str(program), *words], accepted=(0, *_ZIZMOR_FOUND))
    return [_zizmor_refusal(one) for one in answer if not one["ignored"]]


def _zizmor_refusal(finding: Any) -> tuple[Path, Refusal]:
    places = finding["locations"]
    place = next((one for one in places if one["symbolic"]["kind"] == "Primary"), places[0])
    return Path(place["symbolic"]["key"]["Local"]["verbatim_path"]), Refusal(
        rule=f"zizmor/{finding['ident']}",
        line=place["concrete"]["location"]["start_point"]["row"] + 1,
        reason=f"{finding['desc']}: {place['symbolic']['annotation']}",
        hint=f"See {finding['url']}; where it is meant, say why on that line: "
        f"`# zizmor: ignore[{finding['ident']}] <why>`.",
    )


def _ask(name: str, words: list[str], accepted: tuple[int, ...]) -> Any:
    """The JSON that a tool answers with. Raises HarnessError where it gives none."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except FileNotFoundError:
        raise _missing(name) from None
    except subprocess.TimeoutExpired:
        raise _broken(name, f"no answer within {LIMIT_S:.0f} s") from None
    if "No module named" in done.stderr and not done.stdout:
        raise _missing(name)
    try:
        if done.returncode in accepted:
            return json.loads(done.stdout)
    except ValueError:
        pass
    said = done.stderr.strip() or done.stdout.strip()
    raise _broken(name, f"exit code {done.returncode} and: {said[-500:]}")


def _missing(name: str) -> HarnessError:
    return HarnessError(name, "a tool that `ci check` asks", "none", INSTALL)


def _broken(name: str, got: str) -> HarnessError:
    return HarnessError(name, "findings in JSON", got, INSTALL)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
