"""Each mistake is found by an own rule, the schema or zizmor, and safe workflows pass."""

import pytest

from harness.cli.github.check import check
from harness.cli.github.rules import check_rules
from harness.cli.github.workflow_file import parse

PIN = "08c6903cd8c0fde910a37f88322edcfb5dd907a8"
ASK = 'gh api "repos/$GITHUB_REPOSITORY/collaborators/$ACTOR/permission"'


def rules(text: str) -> set[str]:
    """The own rules that a workflow breaks."""
    return {one.rule for one in check_rules(parse(text, "w.yml"))}


@pytest.fixture
def findings(tmp_path):
    """The findings of `harness ci check` in each of some files, zizmor's included."""

    def call(*texts: str) -> list[set[str]]:
        paths = [tmp_path / f"{number}.yml" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        found, unreadable = check(tmp_path, paths, audited=True, strict=False)
        assert not unreadable
        return [{one.rule for one in found[path]} for path in paths]

    return call


def workflow(
    on: str = "push", step: str = "run: make", job: str = "runs-on: ubuntu-latest", more: str = ""
) -> str:
    return (
        f"on: {on}\npermissions: {{}}\njobs:\n  a:\n    {job}\n    steps:\n      - {step}\n{more}"
    )


def checkout(ref: str) -> str:
    return f"uses: actions/checkout@{PIN}\n        with: {{ref: '{ref}'}}"


def approval_job(command: str) -> str:
    return f"  ask:\n    runs-on: ubuntu-latest\n    steps:\n      - run: {command}\n"


def test_a_plain_workflow_passes(findings):
    assert findings(workflow()) == [set()]


STEPS = "    steps: [{run: x}]\n"
JOB = f"jobs:\n  a:\n    runs-on: ubuntu-latest\n{STEPS}"


def test_missing_or_unlimited_permissions_are_found(findings):
    found = findings(
        f"on: push\n{JOB}",
        f"on: push\npermissions: write-all\n{JOB}",
        "on: push\n" + JOB.replace("a:", "a:\n    permissions: write-all"),
    )
    assert found == [{"zizmor/excessive-permissions"}] * 3


def test_actions_are_pinned_to_a_full_commit(findings):
    pinning = {
        "actions/checkout@v5": "zizmor/unpinned-uses",
        "actions/checkout": "malformed-uses",
        f"actions/checkout@{PIN[:12]}": "zizmor/unpinned-uses",
        "docker://alpine:3": "zizmor/unpinned-images",
        f"actions/checkout@{PIN}": None,
        f"docker://alpine@sha256:{'0' * 64}": None,
        "./.github/actions/mine": None,
    }
    found = findings(*[workflow(step=f"uses: {used}") for used in pinning])
    for (used, rule), some in zip(pinning.items(), found, strict=True):
        assert some & set(pinning.values()) == ({rule} if rule else set()), used


@pytest.mark.parametrize("on", ["pull_request_target", "[push, pull_request_target]",
                                "{workflow_run: {workflows: [x]}}", "issue_comment"])  # fmt: skip
@pytest.mark.parametrize(
    "step",
    [
        checkout("${{ github.event.pull_request.head.sha }}"),
        checkout("${{ github.head_ref }}"),
        checkout("refs/pull/${{ github.event.number }}/merge"),
        checkout("${{ steps.find.outputs.commit }}"),
        "run: gh pr checkout 3",
        "run: git fetch origin pull/3/head",
        "run: git fetch origin $X\n        env: {X: '${{ github.event.pull_request.head.sha }}'}",
    ],
)
def test_a_strangers_commit_is_never_checked_out_beside_the_secrets(on, step):
    assert "privileged-head" in rules(workflow(on=on, step=step))


@pytest.mark.parametrize("step", [
    checkout("${{ github.event.pull_request.base.sha }}"),
    f"uses: actions/checkout@{PIN}",
    "run: git fetch origin main",
])  # fmt: skip
def test_the_default_branch_may_be_checked_out_under_pull_request_target(step):
    assert rules(workflow(on="pull_request_target", step=step)) == set()


def test_an_approved_commit_may_be_checked_out_after_a_comment_and_nothing_else():
    approved = checkout("${{ needs.ask.outputs.head }}")
    job = "needs: ask\n    runs-on: ubuntu-latest"
    approval = approval_job(ASK)
    assert rules(workflow("issue_comment", approved, job, approval)) == set()
    assert "privileged-head" in rules(
        workflow("issue_comment", approved, job, approval_job("true"))
    )
    assert "privileged-head" in rules(workflow("pull_request_target", approved, job, approval))
    head = checkout("${{ github.event.pull_request.head.sha }}")
    assert "privileged-head" in rules(workflow("issue_comment", head, job, approval))


PASTED = {
    "github.event.pull_request.title": True,
    "github.event.issue.number || github.event.issue.title": True,
    "github.event.issue.title || github.event.issue.number": True,
    "github.event['comment']['body']": True,
    "github.head_ref": True,
    "github.ref_name": True,
    "toJSON(github.event)": True,
    "toJSON(github)": True,
    "inputs.name": True,
    "github.event.pull_request.number": False,
    "github.event.pull_request.head.sha": False,
    "github.event_name": False,
    "github.sha": False,
    "matrix.python": False,
}


def test_free_text_is_not_pasted_into_a_script(findings):
    def run(expression):
        return f'run: |\n          echo "{expression}"'

    def github_script(expression):
        script = f"uses: actions/github-script@{PIN}\n        with:\n          script: |\n"
        return script + f"            f({expression})"

    for step in (run, github_script):
        found = findings(*[workflow(step=step("${{ " + inner + " }}")) for inner in PASTED])
        for (inner, refused), some in zip(PASTED.items(), found, strict=True):
            assert ("zizmor/template-injection" in some) is refused, inner


def test_free_text_may_be_handed_over_as_a_variable(findings):
    step = "run: echo $X\n        env:\n          X: ${{ %s }}"
    assert findings(*[workflow(step=step % inner) for inner in PASTED]) == [set()] * len(PASTED)


def test_scripts_and_pins_of_an_action_are_checked_too(tmp_path):
    text = "name: a\ndescription: b\ninputs: {name: {description: c}}\n"
    text += "runs:\n  using: composite\n  steps:\n    - run: echo ${{ inputs.name }}\n"
    text += "      shell: bash\n    - uses: actions/cache@v4\n"
    (path := tmp_path / "action.yml").write_text(text)
    found, _ = check(tmp_path, [path], audited=True, strict=False)
    wanted = {"zizmor/template-injection", "zizmor/unpinned-uses"}
    assert {one.rule for one in found[path]} == wanted


OWN = "runs-on: [self-hosted, gpu]\n    timeout-minutes: 9"


@pytest.mark.parametrize("on", ["pull_request", "issue_comment", "{pull_request: {types: [x]}}"])
def test_strangers_do_not_start_an_own_runner_without_approval(on):
    assert rules(workflow(on=on, job=OWN)) == {"unapproved"}
    approval = approval_job(ASK)
    assert rules(workflow(on=on, job=f"needs: ask\n    {OWN}", more=approval)) == set()
    assert rules(workflow(on=on, job=f"environment: gpu\n    {OWN}")) == set()


def test_circular_needs_are_no_approval():
    text = workflow(on="pull_request", job=f"needs: b\n    {OWN}")
    circle = "  b:\n    needs: a\n    runs-on: ubuntu-latest\n    steps: []\n"
    assert rules(text + circle) == {"unapproved"}


def test_an_own_runner_may_run_merged_code_within_a_time_limit():
    assert rules(workflow(job=OWN)) == set()
    assert rules(workflow(job="runs-on: self-hosted")) == {"time-out"}


def test_a_matrix_of_hosted_machines_is_hosted():
    job = "runs-on: ${{ matrix.os }}\n    strategy: {matrix: {os: [ubuntu-latest, macos-14]}}"
    assert rules(workflow(on="pull_request", job=job)) == set()
    assert "unapproved" in rules(workflow(on="pull_request", job=job.replace("macos-14", "gpu")))


@pytest.mark.parametrize("on", ["5", "true", "[1, [2]]", "{3: x}", "null"])
def test_a_trigger_of_any_type_breaks_no_check(on):
    assert rules(f"on: {on}\npermissions: {{}}\njobs: {{}}\n") == set()
