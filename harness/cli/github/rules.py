"""What a workflow may not do where its runner has a GPU and its pull requests come from strangers.

Each rule is a function from one parsed file to findings with a line, a reason and a hint. These
are the mistakes that give a stranger the runner or the repository; the schema and the audit of
zizmor, which know far more, run beside them (`audit`). Two words, as GitHub means them: the
*head* of a pull request is a stranger's commit; a *privileged* trigger runs on the default branch
with its secrets, though a stranger can cause it. Pure; after `file`.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from harness.cli.github.file import Tree, line_of

PRIVILEGED = (
    "pull_request_target",
    "workflow_run",
    "issue_comment",
    "issues",
    "discussion_comment",
)
STRANGERS = (*PRIVILEGED, "pull_request", "pull_request_review", "pull_request_review_comment")
HOSTED = re.compile(r"(ubuntu|windows|macos)-[\w.-]+")  # labels of GitHub's own machines

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_FREE_TEXT = re.compile(r"\bgithub\.(head_ref|ref_name|ref|event)\b|\bgithub\b(?!\.)|\binputs\b")
_FIXED_FORM = re.compile(r"\bgithub\.event\.([\w]+\.)*(number|id|sha|before|after|draft)\b(?!\.)")
_OF_HEAD = re.compile(
    r"github\.head_ref|\.head\.|\.head_|head_sha|head_branch|refs/pull|merge_commit_sha"
)
_GIT = re.compile(r"\bgit\b.*\b(fetch|pull|checkout|switch|clone|reset|worktree)\b")
_FETCHES_HEAD = re.compile(r"\bgh\s+pr\s+checkout\b|\bgit\b.*\bpull/")
_PINNED = re.compile(r"@[0-9a-f]{40}$|^docker://.+@sha256:[0-9a-f]{64}$")
_ASKS_PERMISSION = re.compile(r"collaborators/.*/permission")


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why a workflow may not stand. `rule` names it, `line` counts from 1."""

    rule: str
    line: int
    reason: str
    hint: str


def refusals(tree: Tree) -> list[Refusal]:
    """What speaks against a workflow or a composite action, by line."""
    rules = WORKFLOW_RULES if "jobs" in tree else ACTION_RULES
    return sorted((one for rule in rules for one in rule(tree)), key=lambda one: one.line)


def missing_permissions(tree: Tree) -> Iterator[Refusal]:
    """Without `permissions` a job gets whatever the repository's default is, often everything."""
    if tree.get("permissions") == "write-all":
        yield Refusal(
            rule="permissions",
            line=line_of(tree, "permissions"),
            reason="every job may write everything",
            hint="Write `permissions: {}` here, and under each job what that job needs.",
        )
    for name, job in _jobs(tree):
        if job.get("permissions") == "write-all":
            line, got = line_of(tree, "jobs", name, "permissions"), "may write everything"
        elif "permissions" not in job and "permissions" not in tree:
            line, got = line_of(tree, "jobs", name), "says nothing of permissions"
        else:
            continue
        yield Refusal(
            rule="permissions",
            line=line,
            reason=f"the job {name} {got}",
            hint="Write `permissions: {}` at the top, and under each job what that job needs, "
            "such as `contents: read`.",
        )


def unpinned_actions(tree: Tree) -> Iterator[Refusal]:
    """A tag can be moved to other code; a commit cannot."""
    for keys, step in _uses(tree):
        used = str(step["uses"])
        if used.startswith(("./", "$/")) or _PINNED.search(used):
            continue
        yield Refusal(
            rule="unpinned",
            line=line_of(tree, *keys, "uses"),
            reason=f"{used} is whatever that name means on the day",
            hint="Name the full commit and the version behind it: "
            f"`{used.partition('@')[0]}@<40 digits> # <version>`.",
        )


def head_with_privileges(tree: Tree) -> Iterator[Refusal]:
    """A stranger's commit checked out where the default branch's secrets are."""
    privileged = [name for name in PRIVILEGED if name in _triggers(tree)]
    if not privileged:
        return
    for keys, step in _steps(tree):
        approved = "pull_request_target" not in privileged and _asks_first(tree, keys[1])
        if (got := _head_checked_out(step, approved)) is not None:
            yield Refusal(
                rule="privileged-head",
                line=line_of(tree, *keys),
                reason=f"{privileged[0]} runs with the secrets and the token of this repository, "
                f"and this step fetches a stranger's commit ({got})",
                hint="Use the trigger pull_request, or let a job before this one ask whether a "
                "maintainer approved that commit, as `harness ci init` writes it.",
            )


def free_text_in_shell(tree: Tree) -> Iterator[Refusal]:
    """`${{ }}` is pasted into the script before a shell reads it: a title can be a command."""
    for keys, step in _steps(tree):
        for key, script in _scripts(step):
            for expression in _EXPRESSION.findall(script):
                inner = expression.strip()
                if not _FREE_TEXT.search(_FIXED_FORM.sub("", inner)):
                    continue
                yield Refusal(
                    rule="shell-injection",
                    line=line_of(tree, *keys, *key),
                    reason=f"${{{{ {inner} }}}} is pasted into a script, and whoever chooses that "
                    "text chooses the commands",
                    hint=f"Give it as a variable, `env: {{TEXT: ${{{{ {inner} }}}}}}`, and write "
                    '"$TEXT" in the script.',
                )


def runner_without_approval(tree: Tree) -> Iterator[Refusal]:
    """A machine of one's own that runs what a stranger sent, before anybody has looked at it."""
    caused_by = [name for name in STRANGERS if name in _triggers(tree)]
    if not caused_by:
        return
    for name, job in _jobs(tree):
        if _hosted(job) or "environment" in job or _asks_first(tree, name):
            continue
        yield Refusal(
            rule="unapproved",
            line=line_of(tree, "jobs", name),
            reason=f"the job {name} uses a runner of your own, and {caused_by[0]} lets strangers "
            "start it",
            hint="Let it need a job that asks for the permission of who started it "
            "(`gh api repos/.../collaborators/.../permission`), or give it an `environment` with "
            "required reviewers.",
        )


def endless_jobs(tree: Tree) -> Iterator[Refusal]:
    """A hung job holds one's only GPU for six hours, GitHub's default."""
    for name, job in _jobs(tree):
        if not _hosted(job) and "timeout-minutes" not in job and "uses" not in job:
            yield Refusal(
                rule="time-out",
                line=line_of(tree, "jobs", name),
                reason=f"the job {name} has no time-out and may hold the runner for six hours",
                hint="Add `timeout-minutes:` to it.",
            )


Rule = Callable[[Tree], Iterator[Refusal]]
ACTION_RULES: tuple[Rule, ...] = (unpinned_actions, free_text_in_shell)
WORKFLOW_RULES: tuple[Rule, ...] = (
    *ACTION_RULES,
    missing_permissions,
    head_with_privileges,
    runner_without_approval,
    endless_jobs,
)


def _triggers(tree: Tree) -> set[str]:
    on = tree.get("on")
    return {on} if isinstance(on, str) else set(on or ())


def _jobs(tree: Tree) -> Iterator[tuple[str, Any]]:
    jobs = tree.get("jobs")
    if isinstance(jobs, dict):
        yield from ((name, job) for name, job in jobs.items() if isinstance(job, dict))


def _steps(tree: Tree) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every step of a workflow or an action with the keys that lead to it."""
    places: list[tuple[tuple[Any, ...], Any]] = [
        (("jobs", name, "steps"), job.get("steps")) for name, job in _jobs(tree)
    ]
    if isinstance(tree.get("runs"), dict):
        places.append((("runs", "steps"), tree["runs"].get("steps")))
    for keys, steps in places:
        for number, step in enumerate(steps if isinstance(steps, list) else ()):
            if isinstance(step, dict):
                yield (*keys, number), step


def _uses(tree: Tree) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every step and every job that uses something from elsewhere."""
    for name, job in _jobs(tree):
        if "uses" in job:
            yield ("jobs", name), job
    yield from ((keys, step) for keys, step in _steps(tree) if "uses" in step)


def _scripts(step: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts of a step that an interpreter runs."""
    if "run" in step:
        yield ("run",), str(step["run"])
    given = step.get("with")
    if isinstance(given, dict) and str(step.get("uses")).startswith("actions/github-script@"):
        yield ("with", "script"), str(given.get("script", ""))


def _head_checked_out(step: Any, approved: bool) -> str | None:
    """What in a step fetches the head of a pull request; None where nothing does.

    An output of another job or step may be the head as well: it counts as one unless `approved`.
    """
    script = _run(step)
    given_by_env = script + str(step.get("env", ""))
    if _FETCHES_HEAD.search(script) or (_GIT.search(script) and _OF_HEAD.search(given_by_env)):
        return "by a command"
    if not str(step.get("uses")).startswith("actions/checkout@"):
        return None
    given = step.get("with")
    for key in ("ref", "repository"):
        text = str(given.get(key, "")) if isinstance(given, dict) else ""
        if _OF_HEAD.search(text):
            return f"{key}: {text}"
        if not approved and re.search(r"\b(needs|steps|env|inputs|matrix)\.", text):
            return f"{key}: {text}, which nobody approved"
    return None


def _hosted(job: Any) -> bool:
    """Whether a job runs on a machine of GitHub's; a name that is not known is one's own."""
    if "uses" in job:
        return True  # a reusable workflow has runners of its own, which its own check judges
    wanted = job.get("runs-on")
    labels = wanted.get("labels", []) if isinstance(wanted, dict) else wanted
    labels = [labels] if isinstance(labels, str) else list(labels or ())
    labels = [one for label in labels for one in _of_matrix(job, str(label))]
    return bool(labels) and all(HOSTED.fullmatch(label) for label in labels)


def _of_matrix(job: Any, label: str) -> list[str]:
    """What a label stands for: `${{ matrix.os }}` for every `os` of the job's matrix."""
    named = re.fullmatch(r"\$\{\{\s*matrix\.(\w+)\s*\}\}", label)
    try:
        return [str(one) for one in job["strategy"]["matrix"][named[1]]] if named else [label]
    except (KeyError, TypeError):
        return [label]


def _asks_first(tree: Tree, name: str) -> bool:
    """Whether a job needs one that asks for the permission of who started the workflow."""
    jobs, seen, waiting = dict(_jobs(tree)), {name}, [name]
    while waiting:
        needs = jobs.get(waiting.pop(), {}).get("needs") or []
        new = {needs} if isinstance(needs, str) else set(needs)
        waiting += sorted(new - seen)
        seen |= new
    asking = {keys[1] for keys, step in _steps(tree) if _ASKS_PERMISSION.search(_run(step))}
    return bool(asking & (seen - {name}))


def _run(step: Any) -> str:
    return str(step.get("run", ""))
