"""Other code for an arm: a checkout of a git ref, or of the present code with a patch on it.

A checkout lives in the store under `worktrees/`, named by what is in it, and is made once. The
repository itself is left as it is. Comes before resolve.py, which gives such an arm its checkout.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from harness.errors import StudyFileError
from harness.files import write_text


def checkout_ref(ref: str, checkout: Path, store_root: Path) -> Path:
    """The checkout of a branch, tag or commit. Raises StudyFileError."""
    top, prefix = _repository(checkout, f"ref: {ref}")
    found = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if found.returncode != 0:
        raise StudyFileError(
            f"ref: {ref}",
            f"a branch, tag or commit of {top}",
            "none of that name",
            "`git branch --all` shows the names; fetch it first if it is a remote one.",
        )
    commit = found.stdout.strip()
    return _made(top, commit, None, store_root / "worktrees" / commit[:12]) / prefix


def checkout_patch(patch: Path, checkout: Path, store_root: Path) -> Path:
    """The present code, uncommitted changes included, with a patch applied. StudyFileError."""
    try:
        content = patch.read_bytes()
    except OSError as error:
        raise StudyFileError(
            f"patch: {patch}",
            "a patch file",
            str(error.strerror),
            "Its path is relative to the study file; `git diff > idea.diff` makes one.",
        ) from error
    top, prefix = _repository(checkout, f"patch: {patch}")
    _refuse_untracked(top, patch)
    commit = _git(top, "rev-parse", "HEAD").stdout.strip()
    uncommitted = subprocess.run(
        ["git", "diff", "--binary", "HEAD"], cwd=top, capture_output=True, check=True
    ).stdout
    name = hashlib.sha256(b"\0".join([commit.encode(), uncommitted, content])).hexdigest()[:12]
    patches = [part for part in (uncommitted, content) if part.strip()]
    return _made(top, commit, patches, store_root / "worktrees" / name) / prefix


def clean_commit(checkout: Path) -> str | None:
    """The commit a checkout stands at; None outside a repository or with uncommitted changes."""
    if shutil.which("git") is None:
        return None
    found = _git(checkout, "rev-parse", "--verify", "--quiet", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    clean = found.returncode == 0 and not changed.stdout.strip()
    return found.stdout.strip() if clean else None


def _repository(checkout: Path, what: str) -> tuple[Path, str]:
    """(top of the repository, the checkout's place in it)."""
    if shutil.which("git"):
        found = _git(checkout, "rev-parse", "--show-toplevel", "--show-prefix")
        if found.returncode == 0:
            top, _, prefix = found.stdout.partition("\n")
            has_commit = _git(checkout, "rev-parse", "--verify", "--quiet", "HEAD").returncode == 0
            if has_commit:
                return Path(top), prefix.strip()
    raise StudyFileError(
        what,
        "git, and the trainer's code in a git repository with a commit",
        f"none at {checkout}",
        "Run from a clone of the project: arms on other code are checked out from it.",
    )


def _refuse_untracked(top: Path, patch: Path) -> None:
    listed = _git(top, "ls-files", "--others", "--exclude-standard", "*.py").stdout.splitlines()
    if listed:
        raise StudyFileError(
            f"patch: {patch}",
            "code that git knows, for the patch to be applied to",
            "new files it does not: " + ", ".join(listed[:5]),
            "`git add` them (no commit is needed) or move them away.",
        )


def _made(top: Path, commit: str, patches: list[bytes] | None, folder: Path) -> Path:
    """The finished checkout; one that a killed process left half-made is made anew."""
    ready = folder.with_suffix(".ready")
    if ready.exists() and folder.is_dir():
        return folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    _git(top, "worktree", "prune")
    made = _git(top, "worktree", "add", "--detach", "--force", str(folder.resolve()), commit)
    if made.returncode != 0:
        raise StudyFileError(
            str(folder), "a git worktree", made.stderr.strip()[-300:], "Correct what git names."
        )
    for content in patches or []:
        applied = subprocess.run(
            ["git", "apply", "--whitespace=nowarn"],
            cwd=folder,
            input=content,
            capture_output=True,
        )
        if applied.returncode != 0:
            raise StudyFileError(
                "patch",
                "a patch that applies to the present code",
                applied.stderr.decode(errors="replace").strip()[-300:],
                "Make it again against the present code with `git diff`.",
            )
    write_text(ready, commit + "\n")
    return folder.resolve()


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
