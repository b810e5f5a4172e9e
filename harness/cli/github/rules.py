"""Rules about workflows on a runner of one's own that neither zizmor nor GitHub's schema has.

| mistake | checked by |
|---|---|
| a key or value that GitHub does not know | schema (check-jsonschema) |
| text of strangers pasted into a script by `${{ }}` | zizmor `template-injection` |
| actions and images by tag or branch | zizmor `unpinned-uses`, `unpinned-images` |
| missing or unlimited permissions | zizmor `excessive-permissions` |
| pull_request_target, workflow_run and comments as triggers | zizmor `dangerous-triggers` |
| `privileged-head`: under such a trigger, a stranger's commit is checked out | here |
| `unapproved`: a stranger starts a runner of one's own, and nobody approves | here |
| `time-out`: a job on a runner of one's own without a time limit | here |
| `malformed-uses`: an action without a version, which zizmor cannot read | here |

zizmor reports a dangerous trigger whatever its steps do, so an owner who needs one accepts that
finding on its line; `privileged-head` then still watches what the steps check out. The *head* of a
pull request is a stranger's commit. A *privileged* trigger runs on the default branch with its
secrets although a stranger can cause it.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from harness.cli.github.workflow_file import Tree, line_of

PRIVILEGED = (
    "pull_request_target",
    "workflow_run",
    "issue_comment",
    "issues",
    "discussion_comment",
)
STRANGERS = (*PRIVILEGED, "pull_request", "pull_request_review", "pull_request_review_comment")
HOSTED = re.compile(r"(ubuntu|windows|macos)-[\w.-]+")  # labels of GitHub's own machines

_HEAD = re.compile(
    r"github\.head_ref|\.head\.|\.head_|head_sha|head_branch|refs/pull|merge_commit_sha"
)
_GIT = re.compile(r"\bgit\b.*\b(fetch|pull|checkout|switch|clone|reset|worktree)\b")
_FETCHES_HEAD = re.compile(r"\bgh\s+pr\s+checkout\b|\bgit\b.*\bpull/")
_CHECKS_PERMISSION = re.compile(r"collaborators/.*/permission")

Keys = tuple[Any, ...]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake in a workflow. `line` counts from 1."""

    rule: str
    line: int
    reason: str
    hint: str


def check_rules(tree: Tree) -> list[Finding]:
    """The findings of a workflow or a composite action, by line."""
    rules = (malformed_uses, privileged_head, unapproved_runner, missing_time_out)
    return sorted((one for rule in rules for one in rule(tree)), key=lambda one: one.line)


def malformed_uses(tree: Tree) -> Iterator[Finding]:
    """GitHub refuses an action without `@`, and zizmor cannot read the file."""
    for keys, step in _steps(tree):
        used = str(step.get("uses", "@"))
        if "@" not in used and not used.startswith(("./", "docker://")):
            yield Finding(
                rule="malformed-uses",
                line=line_of(tree, *keys, "uses"),
                reason=f"{used} names no version",
                hint=f"Pin a commit: `uses: {used}@<40 digits> # <version>`.",
            )


def privileged_head(tree: Tree) -> Iterator[Finding]:
    """A stranger's commit is checked out where the default branch's secrets are."""
    privileged = [name for name in PRIVILEGED if name in _triggers(tree)]
    if not privileged:
        return
    for keys, step in _steps(tree):
        approved = "pull_request_target" not in privileged and _is_approved(tree, keys[1])
        if (how := _checked_out_head(step, approved)) is not None:
            yield Finding(
                rule="privileged-head",
                line=line_of(tree, *keys),
                reason=f"{privileged[0]} runs with the secrets and the token of this repository, "
                f"and this step fetches a stranger's commit ({how})",
                hint="Use the trigger pull_request, or let an earlier job check that a maintainer "
                "approved the commit, as the workflow of `harness ci init` does.",
            )


def unapproved_runner(tree: Tree) -> Iterator[Finding]:
    """A runner of one's own runs what a stranger sent, and nobody approves it first."""
    triggers = [name for name in STRANGERS if name in _triggers(tree)]
    for name, job in _jobs(tree):
        if not triggers or _is_hosted(job) or "environment" in job or _is_approved(tree, name):
            continue
        yield Finding(
            rule="unapproved",
            line=line_of(tree, "jobs", name),
            reason=f"the job {name} uses a runner of your own, and {triggers[0]} lets strangers "
            "start it",
            hint="Let it need a job that checks the permission of the person who started it "
            "(`gh api repos/.../collaborators/.../permission`), or give it an `environment` with "
            "required reviewers.",
        )


def missing_time_out(tree: Tree) -> Iterator[Finding]:
    """A job that hangs holds the only GPU for six hours, GitHub's default."""
    for name, job in _jobs(tree):
        if not _is_hosted(job) and "timeout-minutes" not in job:
            yield Finding(
                rule="time-out",
                line=line_of(tree, "jobs", name),
                reason=f"the job {name} has no time limit and may hold the runner for six hours",
                hint="Add `timeout-minutes:` to it.",
            )


def _triggers(tree: Tree) -> set[str]:
    on = tree.get("on")
    if isinstance(on, (list, dict)):
        return {str(name) for name in on}
    return {on} if isinstance(on, str) else set()


def _jobs(tree: Tree) -> Iterator[tuple[str, Any]]:
    jobs = tree.get("jobs")
    if isinstance(jobs, dict):
        yield from ((name, job) for name, job in jobs.items() if isinstance(job, dict))


def _steps(tree: Tree) -> Iterator[tuple[Keys, Any]]:
    """Every step of a workflow or an action, with the keys that lead to it."""
    places: list[tuple[Keys, Any]] = [(("jobs", name), job) for name, job in _jobs(tree)]
    if isinstance(tree.get("runs"), dict):
        places.append((("runs",), tree["runs"]))
    for keys, place in places:
        steps = place.get("steps")
        for number, step in enumerate(steps if isinstance(steps, list) else ()):
            if isinstance(step, dict):
                yield (*keys, "steps", number), step


def _checked_out_head(step: Any, approved: bool) -> str | None:
    """How a step fetches the head of a pull request, or None.

    An output of another job or step may be the head too: it counts unless `approved`.
    """
    script = str(step.get("run", ""))
    if _FETCHES_HEAD.search(script) or (
        _GIT.search(script) and _HEAD.search(script + str(step.get("env", "")))
    ):
        return "by a command"
    inputs = step.get("with")
    if not str(step.get("uses")).startswith("actions/checkout@") or not isinstance(inputs, dict):
        return None
    for key in ("ref", "repository"):
        text = str(inputs.get(key, ""))
        if _HEAD.search(text):
            return f"{key}: {text}"
        if not approved and re.search(r"\b(needs|steps|env|inputs|matrix)\.", text):
            return f"{key}: {text}, which nobody approved"
    return None


def _is_hosted(job: Any) -> bool:
    """Whether a job runs on GitHub's machines; an unknown label is a runner of one's own."""
    if "uses" in job:
        return True  # a reusable workflow names its own runners, and is checked by itself
    wanted = job.get("runs-on")
    labels = wanted.get("labels", []) if isinstance(wanted, dict) else wanted
    labels = [labels] if isinstance(labels, str) else list(labels or ())
    labels = [one for label in labels for one in _expand_matrix(job, str(label))]
    return bool(labels) and all(HOSTED.fullmatch(label) for label in labels)


def _expand_matrix(job: Any, label: str) -> list[str]:
    """`${{ matrix.os }}` as every `os` of the job's matrix; another label as itself."""
    named = re.fullmatch(r"\$\{\{\s*matrix\.(\w+)\s*\}\}", label)
    try:
        return [str(one) for one in job["strategy"]["matrix"][named[1]]] if named else [label]
    except (KeyError, TypeError):
        return [label]


def _is_approved(tree: Tree, name: str) -> bool:
    """Whether a job needs a job that checks the permission of the person who started it."""
    jobs, needed, waiting = dict(_jobs(tree)), {name}, [name]
    while waiting:
        needs = jobs.get(waiting.pop(), {}).get("needs") or []
        new = ({needs} if isinstance(needs, str) else set(needs)) - needed
        waiting += sorted(new)
        needed |= new
    checking = {
        keys[1] for keys, step in _steps(tree) if _CHECKS_PERMISSION.search(str(step.get("run")))
    }
    return bool(checking & (needed - {name}))
