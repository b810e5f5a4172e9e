"""Other code for an arm: a checkout of a git ref, or of the current code with a patch applied.

A checkout is a git worktree in the store under `worktrees/`. It is named by its content and created
once; the repository's own files do not change.
"""

import codecs
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from harness import files
from harness.errors import StudyFileError
from harness.files import write_text


def checkout_ref(ref: str, checkout: Path, store_root: Path) -> Path:
    """A checkout of a branch, tag or commit. Raises StudyFileError."""
    top, prefix = _repository(checkout, f"ref: {ref}")
    result = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if result.returncode != 0:
        expected = f"a branch, tag or commit of {top}"
        hint = "`git branch --all` lists the names; fetch a remote branch first."
        raise StudyFileError(f"ref: {ref}", expected, "none of that name", hint)
    commit = _hash(result.stdout)
    return _checkout(top, commit, None, store_root / "worktrees" / commit[:12]) / prefix


def checkout_patch(patch: Path, checkout: Path, store_root: Path) -> Path:
    """A checkout of the current code, with uncommitted changes and a patch. StudyFileError."""
    try:
        with files.open_regular(patch, follow=True) as handle:
            content = handle.read().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        expected = "a patch file"
        hint = "Its path is relative to the study file; `git diff > idea.diff` writes one."
        raise StudyFileError(f"patch: {patch}", expected, str(error.strerror), hint) from error
    top, prefix = _repository(checkout, f"patch: {patch}")
    _refuse_untracked(top, patch)
    commit = _hash(_git(top, "rev-parse", "HEAD").stdout)
    uncommitted = subprocess.run(
        ["git", "diff", "--binary", "HEAD"], cwd=top, capture_output=True, check=True
    ).stdout
    name = hashlib.sha256(b"\0".join([commit.encode(), uncommitted, content])).hexdigest()[:12]
    patches = [part for part in (uncommitted, content) if part.strip()]
    return _checkout(top, commit, patches, store_root / "worktrees" / name) / prefix


def _hash(answer: str) -> str:
    """The hash that git answered; it names a folder that is removed before it is made again."""
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", answer.strip()):
        hint = "Check that `git` is the program it should be."
        raise StudyFileError("git rev-parse", "the hash of a commit", repr(answer[:80]), hint)
    return answer.strip()


def clean_commit(checkout: Path) -> str | None:
    """The commit of a checkout; None outside a repository or with uncommitted changes."""
    if shutil.which("git") is None:
        return None
    result = _git(checkout, "rev-parse", "--verify", "--quiet", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    clean = result.returncode == 0 and not changed.stdout.strip()
    return result.stdout.strip() if clean else None


def _repository(checkout: Path, what: str) -> tuple[Path, str]:
    """Returns (top of the repository, path of the checkout in it)."""
    if shutil.which("git"):
        result = _git(checkout, "rev-parse", "--show-toplevel", "--show-prefix")
        if result.returncode == 0:
            top, _, prefix = result.stdout.partition("\n")
            has_commit = _git(checkout, "rev-parse", "--verify", "--quiet", "HEAD").returncode == 0
            if has_commit:
                return Path(top), prefix.strip()
    raise StudyFileError(
        what,
        "git, and the trainer's code in a git repository with a commit",
        f"none at {checkout}",
        "Run from a clone of the project: arms on other code are checked out from its repository.",
    )


def _refuse_untracked(top: Path, patch: Path) -> None:
    listed = _git(top, "ls-files", "--others", "--exclude-standard", "*.py").stdout.splitlines()
    if listed:
        expected = "no untracked Python files, because a checkout would lack them"
        got = "untracked: " + ", ".join(listed[:5])
        hint = "`git add` them (no commit is needed), or move them away."
        raise StudyFileError(f"patch: {patch}", expected, got, hint)


def _checkout(top: Path, commit: str, patches: list[bytes] | None, folder: Path) -> Path:
    """Returns the checkout; creates it again if a killed process left it incomplete."""
    ready = folder.with_suffix(".ready")
    if ready.exists() and folder.is_dir():
        return folder.resolve()
    with files.disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    _git(top, "worktree", "prune")
    added = _git(top, "worktree", "add", "--detach", "--force", str(folder.resolve()), commit)
    if added.returncode != 0:
        _raise_for_disk(added.stderr, folder)
        raise StudyFileError(
            str(folder), "a git worktree", added.stderr.strip()[-300:], "Correct what git reports."
        )
    for content in patches or []:
        applied = subprocess.run(
            ["git", "apply", "--whitespace=nowarn"],
            cwd=folder,
            env=_variables(),
            input=content,
            capture_output=True,
        )
        if applied.returncode != 0:
            got = applied.stderr.decode(errors="replace").strip()[-300:]
            _raise_for_disk(got, folder)
            hint = "Write it again from the current code with `git diff`."
            raise StudyFileError("patch", "a patch that applies to the current code", got, hint)
    write_text(ready, commit + "\n")
    return folder.resolve()


def _raise_for_disk(message: str, folder: Path) -> None:
    """Raises DiskError where git failed for lack of space, which is no fault of the study file."""
    for number in files.FULL:
        if os.strerror(number) in message:
            with files.disk_errors(folder):
                raise OSError(number, os.strerror(number))


def _variables() -> dict[str, str]:
    """Of git's processes: messages as `_raise_for_disk` knows them, and no download of large files
    from an address that the checked-out code names (`.lfsconfig`)."""
    return {**os.environ, "LC_ALL": "C", "GIT_LFS_SKIP_SMUDGE": "1"}


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command, variables = ["git", *arguments], _variables()
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, errors="replace"
    )
