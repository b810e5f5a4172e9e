"""The preflight: findings of the step test, stages, nodes, and the plan_id of several ranks."""

import sys
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from harness.full.preflight import (
    Preflight,
    PreflightRunner,
    StepTest,
    step_test_findings,
    worst_first,
)
from harness.results.record import Identity, LaunchInfo
from harness.results.study_plan import plan_id
from harness.runner.process import Stop
from harness.runner.replies import PreflightFinding, Request
from harness.runner.trainer import by_name
from tests.fixtures.faulty_harness import FaultyTrainer

IDENTITY = Identity(config_id="c", code_id="d", data_id="e", protocol=1)
GIB = 2.0**30


def steps(**changes: object) -> StepTest:
    measured = {"step_s": [0.5] * 6, "loader_wait_s": [0.0] * 6, "batch_tokens": 1000}
    ready = {"startup_s": 9.0, "compile_s": 0.0, "device_memory_bytes": 80 * GIB}
    return StepTest(**{**measured, **ready, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({}, []),
        ({"loader_wait_s": [0.02] * 6}, ["loader"]),
        ({"compute_s_by_rank": [0.4, 0.41, 0.4, 0.4]}, []),
        ({"compute_s_by_rank": [0.4, 0.45, 0.4, 0.4]}, ["equal ranks"]),
        ({"peak_memory_bytes_by_rank": [60 * GIB, 70 * GIB]}, []),
        ({"peak_memory_bytes_by_rank": [60 * GIB, 79 * GIB]}, ["memory of a step"]),
        ({"peak_memory_bytes_by_rank": [None, None]}, []),
    ],
)
def test_a_step_test_names_its_problems(changes, bad):
    found = step_test_findings(steps(**changes), 4)
    assert [one.what for one in found if not one.ok] == bad
    assert all(one.hint for one in found if not one.ok)


def test_tokens_per_second_are_those_of_all_ranks():
    assert steps().tokens_per_s == 2000


def test_errors_come_first_and_only_they_block():
    def finding(what, ok, severity):
        return PreflightFinding(what=what, ok=ok, expected="", got="", severity=severity)

    found = [
        finding("fine", True, "error"),
        finding("slow", False, "warning"),
        finding("broken", False, "error"),
    ]
    assert [one.what for one in worst_first(found)] == ["broken", "slow", "fine"]
    blocking = Preflight(at=0.0, ranks=4, findings=found).errors
    assert [one.what for one in blocking] == ["broken"]


def test_a_run_on_more_ranks_has_another_plan_id():
    assert len({plan_id(IDENTITY, 1), plan_id(IDENTITY, 1, 2), plan_id(IDENTITY, 1, 4)}) == 3
    assert plan_id(IDENTITY, 1, 1) == plan_id(IDENTITY, 1)
    assert "ranks" not in msgspec.to_builtins(LaunchInfo())
    assert msgspec.to_builtins(LaunchInfo(ranks=4))["ranks"] == 4


def test_one_of_several_machines_is_checked_for_its_share_of_the_ranks(tmp_path):
    config = by_name("fake").describe([Request(name="job", base=None, set={})])[0].config
    for nodes, here in ((1, "4"), (2, "2")):
        runner = PreflightRunner(by_name("fake"), config, 4, tmp_path, Stop(), nodes)
        got = {one.what: one.got for one in runner.requirements().findings}
        assert got["ranks here"] == here


class Staged(FaultyTrainer):
    """Its steps change their shape; from `broken` on they cannot be taken."""

    broken: ClassVar[int] = 1000

    def pace_command(
        self, config_file: Path, run_dir: Path, ranks: int = 1, at_step: int = 0
    ) -> list[str]:
        command = super().pace_command(config_file, run_dir, ranks)
        return command if at_step < self.broken else [sys.executable, "-c", "raise SystemExit(1)"]


def test_every_stage_is_tested_until_one_fails(tmp_path, monkeypatch):
    config = by_name("fake").describe([Request(name="job", base=None, set={})])[0].config
    runner = PreflightRunner(Staged(), config, 2, tmp_path, Stop())
    nothing = Preflight(at=0.0, ranks=2)
    found = runner.step_test(nothing, 0.3, [0, 7])
    assert [test.at_step for test in found.steps] == [0, 7]
    assert {"step test", "step test from step 7"} <= {one.what for one in found.findings}
    monkeypatch.setattr(Staged, "broken", 7)
    broken = runner.step_test(nothing, 0.3, [0, 7, 9])
    assert [test.at_step for test in broken.steps] == [0]
    assert len(broken.errors) == 1
