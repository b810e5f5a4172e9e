"""`harness ci`: workflows written, updated around their owner's changes, and checked."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from harness import errors
from harness.__main__ import main
from harness.cli.github import check as checks
from harness.cli.github import install
from harness.cli.github.check import check
from harness.cli.github.rules import check_rules
from harness.cli.github.workflow_file import parse
from harness.errors import HarnessError

GATE = ".github/workflows/harness-gate.yml"
LIMIT = "    timeout-minutes: 90\n"
OWN_STEP = """\
      # ours: the disk of this machine is slow
      - name: Warm the page cache
        run: |
          # every shard once
          cat /data/*.bin > /dev/null
      # and this belongs to the gate

      - name: Gate
        id: harness-gate
"""
STRANGER = """\
name: Labels
on: pull_request_target
permissions: {}
jobs:
  label:
    name: Label
    runs-on: ubuntu-latest
    permissions: {contents: read}
    steps:
      - uses: actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0
        with:
          ref: ${{ github.event.pull_request.head.sha }}
          persist-credentials: false
"""
TITLE = """\
name: Title
on: pull_request
permissions: {}
jobs:
  title:
    name: Title
    runs-on: ubuntu-latest
    steps:
      - run: echo "${{ github.event.pull_request.title }}"
"""


@pytest.fixture
def call(capfd, monkeypatch):
    """`harness ci` in this process: (exit code, stdout, stderr)."""

    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", "ci", *map(str, argv)])
        with pytest.raises(SystemExit) as ending:
            main()
        return int(ending.value.code or 0), *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def initial(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("initial")
    install.init(root, install.Choices())
    return root


@pytest.fixture
def repository(tmp_path: Path, initial: Path) -> Path:
    """A repository of its own that `ci init` has written into."""
    shutil.copytree(initial, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def newer_templates(tmp_path_factory, monkeypatch) -> Path:
    """The templates as a later version might have them: other pins, one more step, longer."""
    folder = tmp_path_factory.mktemp("templates")
    for path in install.TEMPLATES.iterdir():
        text = path.read_text()
        text = re.sub(r"checkout@[0-9a-f]{40} # v[\d.]+", f"checkout@{'1' * 40} # v9.0.0", text)
        text = text.replace("timeout-minutes: 90", "timeout-minutes: 100")
        text = text.replace(
            "      - name: Fetch the commit into the repository\n",
            "      - name: See the GPU\n        id: harness-see\n        run: nvidia-smi\n"
            "      - name: Fetch the commit into the repository\n",
        )
        (folder / path.name).write_text(text)
    monkeypatch.setattr(install, "TEMPLATES", folder)
    return folder


def written(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def edit(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


def test_init_in_an_empty_repository_is_clean_in_schema_rules_and_strict_audit(repository, call):
    code, out, err = call("check", "--root", repository, "--strict")
    assert (code, err) == (errors.PASS, "")
    assert "files: 5; findings: 0 (own rules, schema, zizmor)" in out


def test_every_audit_finding_that_is_ignored_in_a_template_has_its_reason_on_the_line():
    ignored = [
        line
        for path in install.TEMPLATES.iterdir()
        for line in path.read_text().splitlines()
        if "zizmor: ignore" in line
    ]
    assert ignored
    for line in ignored:
        assert re.search(r"zizmor: ignore\[[\w-]+\] \w+( \S+){3,}", line), line


def test_init_writes_the_templates_as_they_are_except_for_the_choices(tmp_path, call):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "speedrun-harness"\n')
    assert call("init", "--root", tmp_path)[0] == errors.PASS
    for name, path in install.FILES.items():
        assert (tmp_path / path).read_text() == (install.TEMPLATES / name).read_text()


def test_a_repository_that_is_no_clone_installs_the_released_harness(tmp_path, call):
    assert call("init", "--root", tmp_path)[0] == errors.PASS
    for name, path in install.FILES.items():
        template = (install.TEMPLATES / name).read_text()
        wanted = template.replace("-e '.[gpu", "'speedrun-harness[gpu")
        assert (tmp_path / path).read_text() == wanted
    assert "pip install --quiet 'speedrun-harness[gpu]'" in (tmp_path / GATE).read_text()
    assert call("update", "--root", tmp_path)[0] == errors.PASS
    assert call("check", "--root", tmp_path, "--strict")[0] == errors.PASS


def test_init_fills_in_runner_baseline_and_configuration(tmp_path, call):
    argv = ("--runner", "h100", "--baseline", "d12", "--config", "mine.yaml")
    call("init", "--root", tmp_path, *argv)
    texts = written(tmp_path)
    gate, nightly, new = (
        parse(texts[str(install.FILES[name])], name) for name in list(install.FILES)[:3]
    )
    assert gate["jobs"]["gate"]["runs-on"] == ["h100"]
    assert gate["jobs"]["approve"]["runs-on"].startswith("ubuntu-")
    assert gate["env"]["HARNESS_BASELINE"] == "d12"
    assert nightly["env"]["HARNESS_CONFIG"] == "mine.yaml"
    assert new["on"]["workflow_dispatch"]["inputs"]["name"]["default"] == "d12"
    assert call("check", "--root", tmp_path, "--strict")[0] == errors.PASS


@pytest.mark.parametrize("word", ["", "gpu\nrun: x", "${{ github.head_ref }}"])
def test_a_runner_label_that_is_not_plain_text_is_refused(tmp_path, call, word):
    code, _, err = call("init", "--root", tmp_path, "--runner", word)
    assert (code, written(tmp_path)) == (errors.USAGE, {})
    assert "expected one line of plain text" in err


def test_init_writes_nothing_where_one_of_the_files_exists(tmp_path, call):
    (tmp_path / GATE).parent.mkdir(parents=True)
    (tmp_path / GATE).write_text("mine\n")
    code, _, err = call("init", "--root", tmp_path)
    assert (code, written(tmp_path)) == (errors.USAGE, {GATE: "mine\n"})
    assert "Move or rename it" in err


def test_init_twice_points_to_update(repository, call):
    code, _, err = call("init", "--root", repository)
    assert code == errors.USAGE
    assert "harness ci update" in err


def test_an_update_without_a_newer_template_changes_no_byte(repository, call):
    edit(repository / GATE, ("timeout-minutes: 90", "timeout-minutes:   200   # slow"))
    before = written(repository)
    code, out, _ = call("update", "--root", repository)
    assert (code, written(repository)) == (errors.PASS, before)
    assert "unchanged" in out
    assert "your version stays" not in out  # only the owner changed it: nothing to report


def test_an_update_keeps_own_steps_changes_and_comments_and_takes_the_rest(
    repository, call, newer_templates
):
    path = repository / GATE
    edit(
        path,
        ("name: GPU gate\n", "# requested by the speed team\nname: Our gate\n"),
        ("      - name: Gate\n        id: harness-gate\n", OWN_STEP),
        ("timeout-minutes: 90", "timeout-minutes: 200 # our runner is slow"),
    )
    mine = path.read_text()
    code, out, err = call("update", "--root", repository)
    assert (code, err) == (errors.PASS, "")
    after = path.read_text()
    assert OWN_STEP in after
    assert "# requested by the speed team\nname: Our gate\n" in after
    assert "timeout-minutes: 200 # our runner is slow" in after
    assert "your version stays, the template differs: jobs.gate.timeout-minutes" in out
    assert after.count(f"checkout@{'1' * 40} # v9.0.0\n") == 2
    lost = set(re.findall(r" (#.*)", mine)) - set(re.findall(r" (#.*)", after))
    assert lost == {"# v5.0.0"}  # the template's own, of the old pin
    steps = [step["name"] for step in parse(after, GATE)["jobs"]["gate"]["steps"]]
    assert steps.index("See the GPU") + 1 == steps.index("Fetch the commit into the repository")
    assert steps.index("Warm the page cache") + 1 == steps.index("Gate")
    assert call("check", "--root", repository, "--strict")[0] == errors.PASS
    assert [line for line in mine.splitlines() if line not in after.splitlines()] == [
        line for line in mine.splitlines() if "actions/checkout@" in line
    ]


@pytest.mark.parametrize("line", range(0, 130, 13))
def test_a_comment_anywhere_survives_an_update(repository, call, newer_templates, line):
    path = repository / GATE
    lines = path.read_text().splitlines()
    if (line := min(line, len(lines) - 1)) and not lines[line].endswith(("|", ">-")):
        lines[line] += " # ours"
    path.write_text("\n".join(lines) + "\n")
    owned = [one for one in lines if one.endswith("# ours")]
    call("update", "--root", repository)
    after = path.read_text().splitlines()
    assert [one for one in after if one.endswith("# ours")] == owned


def test_an_update_can_be_read_by_a_program(repository, call, newer_templates):
    edit(repository / GATE, ("timeout-minutes: 90", "timeout-minutes: 200"))
    code, out, _ = call("update", "--root", repository, "--json")
    assert code == errors.PASS
    changes = {change["path"]: change for change in json.loads(out)}
    assert changes[GATE]["action"] == "updated"
    assert changes[GATE]["kept"] == ["jobs.gate.timeout-minutes"]
    assert "jobs.gate.steps.harness-checkout.uses" in changes[GATE]["taken"]


def test_a_second_update_changes_nothing(repository, call, newer_templates):
    call("update", "--root", repository)
    before = written(repository)
    assert call("update", "--root", repository)[0] == errors.PASS
    assert written(repository) == before


def test_a_step_and_a_file_that_the_owner_removed_stay_away(repository, call, newer_templates):
    fetch = "      - name: Fetch the commit into the repository\n        id: harness-fetch\n"
    edit(repository / GATE, (fetch + "        run: git fetch --quiet ./candidate HEAD\n", ""))
    nightly = repository / install.FILES["harness-nightly.yml"]
    nightly.unlink()
    code, out, _ = call("update", "--root", repository)
    assert code == errors.PASS
    assert "harness-fetch" not in (repository / GATE).read_text()
    assert not nightly.exists()
    assert "(you removed the file)" in out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LIMIT, LIMIT + LIMIT, "every key once"),
        ("permissions: {}\n", "permissions: &none {}\n", "the anchor &none"),
        (LIMIT, LIMIT.replace("    ", "\t"), "cannot start any token"),
    ],
    ids=["duplicate key", "anchor", "tab"],
)
def test_a_file_that_cannot_be_changed_safely_is_refused_and_no_file_is_written(
    repository, call, newer_templates, old, new, message
):
    edit(repository / GATE, (old, new))
    before = written(repository)
    code, _, err = call("update", "--root", repository)
    assert (code, written(repository)) == (errors.USAGE, before)
    assert re.search(rf"{GATE}:\d+: expected ", err)
    assert message in err


def test_a_merge_that_would_break_the_file_is_refused_and_no_file_is_written(
    repository, call, newer_templates
):
    newer = newer_templates / "harness-gate.yml"
    edit(newer, ("permissions: {}\n\nenv:", "permissions: {}\n\nenv:\n  A: 1\n  B: 2\n  C: 3"))
    edit(repository / GATE, ('MINUTES: "20"\n', 'MINUTES: "20"\n  A: 5\n'))
    before = written(repository)
    code, _, err = call("update", "--root", repository)
    assert (code, written(repository)) == (errors.USAGE, before)
    assert "every key once" in err


def test_odd_indentation_survives_an_update(repository, call, newer_templates):
    odd = "         contents: read\n"
    edit(repository / GATE, ("      contents: read # to check out\n", odd))
    assert call("update", "--root", repository)[0] == errors.PASS
    after = (repository / GATE).read_text()
    assert odd in after
    assert after.count("1" * 40) == 2


def test_a_comment_at_a_part_that_the_template_lost_keeps_that_part_and_is_reported(
    repository, call, newer_templates
):
    path = newer_templates / "harness-gate.yml"
    step = "      - name: Fetch the commit into the repository\n        id: harness-fetch\n"
    edit(path, (step + "        run: git fetch --quiet ./candidate HEAD\n", ""))
    edit(repository / GATE, ("id: harness-fetch\n", "id: harness-fetch # we rely on this\n"))
    code, out, _ = call("update", "--root", repository)
    assert code == errors.PASS
    after = (repository / GATE).read_text()
    assert "id: harness-fetch # we rely on this\n        run: git fetch --quiet" in after
    assert "your version stays, the template differs: jobs.gate.steps.harness-fetch" in out


@pytest.mark.parametrize("state", [None, "{", '{"format": 99, "choices": {}, "files": {}}'])
def test_an_update_without_a_readable_state_of_init_names_the_hint(repository, call, state):
    path = repository / install.STATE
    path.unlink()
    if state is not None:
        path.write_text(state)
    code, _, err = call("update", "--root", repository)
    assert code == errors.USAGE
    assert "harness-ci.json: expected" in err


@pytest.mark.parametrize(
    ("text", "rule", "reason"),
    [
        (STRANGER, "privileged-head", "this step fetches a stranger's commit"),
        (TITLE, "zizmor/template-injection", "attacker-controllable code"),
    ],
)
def test_check_refuses_with_the_reason(repository, call, text, rule, reason):
    path = repository / ".github/workflows/own.yml"
    path.write_text(text)
    code, out, _ = call("check", "--root", repository)
    assert code == errors.USAGE
    assert f"own.yml:10: error ({rule})" in out or f"own.yml:9: error ({rule})" in out
    assert reason in out
    assert path.read_text() == text


def test_check_names_a_broken_file_and_still_checks_the_others(repository, call):
    folder = repository / ".github/workflows"
    (folder / "broken.yml").write_text("on: push\non: pull_request\n")
    (folder / "stranger.yml").write_text(STRANGER)
    code, out, _ = call("check", "--root", repository, "--no-audit")
    assert code == errors.USAGE
    assert "broken.yml:2: expected every key once" in out
    assert "stranger.yml:10: error (privileged-head)" in out
    assert "findings: 2 (own rules alone)" in out


def test_check_of_nothing_is_wrong_usage(tmp_path, call):
    assert call("check", "--root", tmp_path)[0] == errors.USAGE


def test_the_schema_names_the_key_it_does_not_know(tmp_path):
    path = tmp_path / "odd.yml"
    path.write_text("on: push\njobs:\n  a:\n    runs-on: x\n    stps: []\n")
    found, _ = check(tmp_path, [path], audited=True, strict=False)
    found = next(one for one in found[path] if one.rule == "schema")
    assert "'stps' was unexpected" in found.reason


def test_zizmor_finds_a_mistake_that_the_own_rules_do_not(tmp_path):
    path = tmp_path / "own.yml"
    path.write_text(STRANGER.replace("          persist-credentials: false\n", ""))
    found = {one.rule for one in check(tmp_path, [path], audited=True, strict=False)[0][path]}
    assert "zizmor/artipacked" in found
    own = {one.rule for one in check_rules(parse(path.read_text(), "own.yml"))}
    assert own == {"privileged-head"} < found


def test_a_missing_audit_tool_is_an_error_and_not_a_pass(tmp_path, monkeypatch):
    path = tmp_path / "own.yml"
    path.write_text(TITLE)
    monkeypatch.setattr(checks.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(
        HarnessError,
        match=r"zizmor: expected an installed tool.*pip install 'speedrun-harness\[ci\]'",
    ):
        check(tmp_path, [path], audited=True, strict=False)
