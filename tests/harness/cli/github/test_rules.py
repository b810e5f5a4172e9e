"""Each rule refuses what it is about, and lets pass what is safe."""

import pytest

from harness.cli.github.file import parse
from harness.cli.github.rules import refusals

PIN = "08c6903cd8c0fde910a37f88322edcfb5dd907a8"
ASK = 'gh api "repos/$GITHUB_REPOSITORY/collaborators/$ACTOR/permission"'


def rules(text: str) -> set[str]:
    return {one.rule for one in refusals(parse(text, "w.yml"))}


def workflow(
    on: str = "push", step: str = "run: make", job: str = "runs-on: ubuntu-latest", more: str = ""
) -> str:
    return (
        f"on: {on}\npermissions: {{}}\njobs:\n  a:\n    {job}\n    steps:\n      - {step}\n{more}"
    )


def checkout(ref: str) -> str:
    return f"uses: actions/checkout@{PIN}\n        with: {{ref: '{ref}'}}"


def asked_by(command: str) -> str:
    return f"  ask:\n    runs-on: ubuntu-latest\n    steps:\n      - run: {command}\n"


def test_a_plain_workflow_passes():
    assert rules(workflow()) == set()


@pytest.mark.parametrize("text", [
    "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: []\n",
    "on: push\npermissions: write-all\njobs: {}\n",
    "on: push\njobs:\n  a:\n    permissions: write-all\n    runs-on: ubuntu-latest\n",
])  # fmt: skip
def test_missing_or_unlimited_permissions_are_refused(text):
    assert rules(text) == {"permissions"}


@pytest.mark.parametrize(
    ("used", "refused"),
    [
        ("actions/checkout@v5", True),
        ("actions/checkout", True),
        (f"actions/checkout@{PIN[:12]}", True),
        ("docker://alpine:3", True),
        (f"actions/checkout@{PIN}", False),
        (f"docker://alpine@sha256:{'0' * 64}", False),
        ("./.github/actions/mine", False),
    ],
)
def test_actions_are_pinned_to_a_full_commit(used, refused):
    assert ("unpinned" in rules(workflow(step=f"uses: {used}"))) is refused


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
def test_a_strangers_commit_never_meets_the_secrets(on, step):
    assert "privileged-head" in rules(workflow(on=on, step=step))


@pytest.mark.parametrize("step", [
    checkout("${{ github.event.pull_request.base.sha }}"),
    f"uses: actions/checkout@{PIN}",
    "run: git fetch origin main",
])  # fmt: skip
def test_the_own_branch_may_be_checked_out_under_pull_request_target(step):
    assert rules(workflow(on="pull_request_target", step=step)) == set()


def test_an_approved_commit_may_be_checked_out_after_a_comment_and_nothing_else():
    approved = checkout("${{ needs.ask.outputs.head }}")
    job = "needs: ask\n    runs-on: ubuntu-latest"
    asking = asked_by(ASK)
    assert rules(workflow("issue_comment", approved, job, asking)) == set()
    assert "privileged-head" in rules(workflow("issue_comment", approved, job, asked_by("true")))
    assert "privileged-head" in rules(workflow("pull_request_target", approved, job, asking))
    head = checkout("${{ github.event.pull_request.head.sha }}")
    assert "privileged-head" in rules(workflow("issue_comment", head, job, asking))


@pytest.mark.parametrize(
    ("inner", "refused"),
    [
        ("github.event.pull_request.title", True),
        ("github.event.issue.number || github.event.issue.title", True),
        ("github.event.issue.title || github.event.issue.number", True),
        ("github.event['comment']['body']", True),
        ("github.head_ref", True),
        ("github.ref_name", True),
        ("toJSON(github.event)", True),
        ("toJSON(github)", True),
        ("inputs.name", True),
        ("github.event.pull_request.number", False),
        ("github.event.pull_request.head.sha", False),
        ("github.event_name", False),
        ("github.sha", False),
        ("matrix.python", False),
    ],
)
def test_free_text_is_not_pasted_into_a_script(inner, refused):
    expression = "${{ " + inner + " }}"
    step = f'run: |\n          echo "{expression}"'
    assert ("shell-injection" in rules(workflow(step=step))) is refused
    script = f"uses: actions/github-script@{PIN}\n        with:\n          script: |\n"
    script += f"            f({expression})"
    assert ("shell-injection" in rules(workflow(step=script))) is refused
    safe = f"run: echo $X\n        env:\n          X: {expression}"
    assert rules(workflow(step=safe)) == set()


def test_an_action_is_held_to_scripts_and_pins_too():
    text = "runs:\n  using: composite\n  steps:\n    - run: echo ${{ inputs.name }}\n"
    text += "      shell: bash\n    - uses: actions/cache@v4\n"
    assert rules(text) == {"shell-injection", "unpinned"}


OWN = "runs-on: [self-hosted, gpu]\n    timeout-minutes: 9"


@pytest.mark.parametrize("on", ["pull_request", "issue_comment", "{pull_request: {types: [x]}}"])
def test_strangers_do_not_start_an_own_runner_without_approval(on):
    assert rules(workflow(on=on, job=OWN)) == {"unapproved"}
    asked = asked_by(ASK)
    assert rules(workflow(on=on, job=f"needs: ask\n    {OWN}", more=asked)) == set()
    assert rules(workflow(on=on, job=f"environment: gpu\n    {OWN}")) == set()


def test_needs_in_a_circle_are_no_approval():
    text = workflow(on="pull_request", job=f"needs: b\n    {OWN}")
    circle = "  b:\n    needs: a\n    runs-on: ubuntu-latest\n    steps: []\n"
    assert rules(text + circle) == {"unapproved"}


def test_an_own_runner_may_run_what_was_merged_but_not_for_ever():
    assert rules(workflow(job=OWN)) == set()
    assert rules(workflow(job="runs-on: self-hosted")) == {"time-out"}


def test_a_matrix_of_hosted_machines_is_hosted():
    job = "runs-on: ${{ matrix.os }}\n    strategy: {matrix: {os: [ubuntu-latest, macos-14]}}"
    assert rules(workflow(on="pull_request", job=job)) == set()
    assert "unapproved" in rules(workflow(on="pull_request", job=job.replace("macos-14", "gpu")))
