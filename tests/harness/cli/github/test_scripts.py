"""The scripts inside the workflows, run by bash with a `gh` that answers as GitHub would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.github import install
from harness.cli.github.workflow_file import parse

HEAD, BASE = "a" * 40, "b" * 40
GH = """\
#!/bin/bash
case "$2" in
  */permission) echo "$PERMISSION" ;;
  */pulls/7) case "$4" in *head*) echo "$NEWEST" ;; *ref) echo main ;; *) echo main-tip ;; esac ;;
  */compare/main-tip...*) echo "{base}" ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


def script(template: str, *keys: object) -> str:
    """The `run` of one step of a template."""
    value = parse((install.TEMPLATES / template).read_text(), template)
    for key in keys[:-1]:
        value = value[key]
    return next(step["run"] for step in value if step["id"] == keys[-1])


@pytest.fixture
def run(tmp_path: Path):
    """Runs a script as a runner does: (exit code, what it printed, its outputs)."""
    gh = tmp_path / "gh"
    gh.write_text(GH.format(base=BASE))
    gh.chmod(0o755)

    def call(text: str, shell: tuple[str, ...] = ("bash", "-e", "-c"), **variables: str):
        out = tmp_path / "output"
        out.write_text("")
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            [*shell, text], capture_output=True, text=True, check=False, cwd=tmp_path,
            env={"PATH": path, "HOME": str(tmp_path), "GITHUB_OUTPUT": str(out), **variables},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr, out.read_text()

    return call


def ask(run, comment: str, **changed: str):
    """The approving script."""
    variables = {
        "GITHUB_REPOSITORY": "o/r", "ACTOR": "ada", "NUMBER": "7", "PERMISSION": "write",
        "NEWEST": HEAD, "COMMENT": comment,
    }  # fmt: skip
    text = script("harness-gate.yml", "jobs", "approve", "steps", "harness-approve")
    return run(text, **{**variables, **changed})


@pytest.mark.parametrize("comment", [f"/gate {HEAD}", f"/gate {HEAD}\nthank you"])
def test_a_writer_who_names_the_newest_commit_starts_the_gate(run, comment):
    code, printed, outputs = ask(run, comment)
    assert (code, printed, outputs) == (0, "", f"base={BASE}\nbranch=main\nhead={HEAD}\n")


@pytest.mark.parametrize(
    ("comment", "changed", "message"),
    [
        (f"/gate {HEAD}", {"PERMISSION": "read"}, "has no write access"),
        (f"/gate {HEAD}", {"PERMISSION": "none"}, "has no write access"),
        ("", {}, "all 40 digits"),
        (f"/gate {HEAD}", {"NEWEST": "c" * 40}, "Review it, then start the gate again"),
        (f"/gate {HEAD[:12]}", {}, "all 40 digits"),
        ("/gate now", {}, "all 40 digits"),
        ("/gate $(touch pwned)", {}, "all 40 digits"),
    ],
)
def test_everybody_and_everything_else_is_refused(run, tmp_path, comment, changed, message):
    code, printed, outputs = ask(run, comment, **changed)
    assert (code, outputs) == (1, "")
    assert message in printed
    assert not (tmp_path / "pwned").exists()


def test_a_label_starts_nothing_and_is_answered_with_the_commit_to_confirm(run, tmp_path):
    gate = parse((install.TEMPLATES / "harness-gate.yml").read_text(), "gate")
    assert list(gate["on"]) == ["issue_comment"]
    label = parse((install.TEMPLATES / "harness-label.yml").read_text(), "label")
    (job,) = label["jobs"].values()
    assert job["permissions"] == {"pull-requests": "write"}
    assert not any("uses" in step for step in job["steps"])
    (tmp_path / "gh").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > printed\n')
    text = script("harness-label.yml", "jobs", "reply", "steps", "harness-reply")
    code, *_ = run(text, HEAD=HEAD, NUMBER="7", GITHUB_REPOSITORY="o/r")
    printed = (tmp_path / "printed").read_text()
    assert code == 0
    assert f"    /gate {HEAD}\n" in printed
    assert not printed.startswith("/gate")


@pytest.mark.parametrize(
    ("code", "inconclusive", "ends"),
    [("0", "fail", 0), ("3", "fail", 3), ("3", "pass", 0), ("4", "pass", 4), ("10", "pass", 10)],
)
def test_the_action_exits_with_the_code_of_the_gate(run, code, inconclusive, ends):
    text = script("action.yml", "runs", "steps", "harness-exit")
    assert run(text, CODE=code, INCONCLUSIVE=inconclusive)[0] == ends


def test_the_comment_names_what_the_commit_was_compared_with(run, tmp_path):
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate/gate.md").write_text("PASS\n")
    (tmp_path / "gh").write_text("#!/bin/bash\n")
    text = script("harness-gate.yml", "jobs", "report", "steps", "harness-report")
    given = {"OUTCOME": "pass", "RESULT": "success", "NUMBER": "7", "GITHUB_REPOSITORY": "o/r"}
    assert run(text, HEAD=HEAD, BASE=BASE, BRANCH="old", RUN="url", **given)[0] == 0
    comment = (tmp_path / "comment.md").read_text()
    assert comment == f"PASS\n\n{HEAD}, compared with {BASE} of `old`, url\n"


@pytest.mark.parametrize("code", [0, 3, 10])
def test_the_summary_of_the_night_is_written_also_where_it_shows_an_alarm(run, tmp_path, code):
    harness = tmp_path / "harness"
    harness.write_text(f'#!/bin/bash\necho "drift" > "${{@: -1}}"\nexit {code}\n')
    harness.chmod(0o755)
    text = script("harness-nightly.yml", "jobs", "drift", "steps", "harness-drift")
    summary = tmp_path / "summary.md"
    ended, _, _ = run(text, HARNESS=str(harness), GITHUB_STEP_SUMMARY=str(summary))
    assert (ended, summary.read_text()) == (code, "drift\n")


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 10])
def test_a_gate_that_does_not_pass_does_not_end_the_step_that_measures(run, tmp_path, code):
    gate = tmp_path / "gate-program"
    gate.write_text(f'#!/bin/bash\necho "$@"\necho "the reason" >&2\nexit {code}\n')
    gate.chmod(0o755)
    text = script("action.yml", "runs", "steps", "harness-run")
    given = {"BASELINE": "d 12", "BASE": BASE, "HEAD": HEAD, "CLAIMS": "ml", "MINUTES": "5",
             "EVALUATE_WITH": "base"}  # fmt: skip
    shell = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
    ended, _, outputs = run(text, shell, HARNESS=str(gate), STORE="", **given)
    assert (ended, outputs) == (0, f"code={code}\n")
    argv = (tmp_path / "harness-gate/gate.json").read_text()
    assert f"--base {BASE} --head {HEAD}" in argv
    assert f"--store {tmp_path}/harness/gate" in argv
    assert "--sandbox --evaluate-with base" in argv
    assert (tmp_path / "harness-gate/gate.log").read_text() == "the reason\n"


ACTS = {"baseline record": "baseline", "baseline accept": "baseline"}  # chosen by an input


@pytest.mark.parametrize("command", ["run", "pack", "drift", "ci results", "gate", *ACTS])
def test_every_option_that_a_workflow_gives_a_command_exists(command):
    written = ACTS.get(command, command)
    texts = [path.read_text().replace("\\\n", " ") for path in install.TEMPLATES.iterdir()]
    lines = [
        line for text in texts for line in text.splitlines() if f'"$HARNESS" {written} ' in line
    ]
    assert lines
    help_text = subprocess.run(
        [sys.executable, "-m", "harness", *command.split(), "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    for option in re.findall(r" (--[a-z-]+)", "\n".join(lines)):
        assert f"{option} " in help_text
