"""Whole studies on the simulated trainer: order, blocks, resuming, limits, failures, kills."""

import os
import random
import signal
import subprocess
import time
from collections import Counter

import msgspec
import pytest

from harness import errors, files
from harness.runner import process as run
from harness.runner.process import Stop
from harness.runner.trainer import default_checkout
from harness.study.executor import (
    Command,
    Executor,
    SilentListener,
    StudyOptions,
    spread_blocks,
    tasks,
)
from tests.fixtures.faulty_harness import FaultyTrainer

pytestmark = pytest.mark.slow  # whole studies; CI runs them by themselves


def planned(store):
    return store.study("quick").runs


def completed(store):
    return Counter(made.plan_id for made in store.records() if made.status == "completed")


def assert_finished(store):
    """Every planned run is recorded as completed exactly once."""
    assert completed(store) == Counter({run.plan_id: 1 for run in planned(store)})


def test_a_study_makes_every_run_once_in_order_and_none_when_repeated(harness, study_file, store):
    path = study_file()
    done = harness("study", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert_finished(store)
    order = [(made.launch.block, made.launch.arm) for made in store.records()]
    assert order == [(run.block, run.arm) for run in planned(store)]
    assert (store.report_dir("study", "quick") / "report.json").exists()
    again = harness("study", path)
    assert again.returncode == errors.PASS
    assert len(store.records()) == 6
    assert all(store.curve(run.plan_id).num_rows == 20 for run in planned(store))


def test_a_sweep_comes_first_and_its_best_is_written_into_the_arm(harness, study_file, store):
    retune = "{muon: {values: {optimizer.adamw_lr: [0.001, 0.003, 0.01]}, seeds: [7]}}"
    path = study_file(arms=f"{{leave_one_out: [windows, muon], retune: {retune}}}")
    done = harness("study", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    arm = store.study("quick").arm("no_muon")
    assert arm.retuned["optimizer.adamw_lr"].value == 0.003
    assert not arm.retuned["optimizer.adamw_lr"].at_edge
    assert arm.untuned == []
    assert arm.config["optimizer"]["adamw_lr"] == 0.003
    assert [made.seed for made in store.records()][:3] == [7, 7, 7]
    assert_finished(store)
    assert harness("study", path).returncode == errors.PASS
    assert len(store.records()) == 9


def test_a_failing_arm_is_recorded_and_the_study_continues(harness, study_file, store, tmp_path):
    repaired = tmp_path / "repaired"
    arms = (
        f"{{leave_one_out: [windows], broken: {{set: {{fail.crash_at_step: 3, "
        f"fail.half_line: true, fail.until_file: {repaired}}}}}}}"
    )
    path = study_file(arms=arms)
    done = harness("study", path)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "broken (seed 1), broken (seed 2)" in " ".join(done.stdout.split())
    failed = [made for made in store.records() if made.status == "failed"]
    assert len(failed) == 2
    assert all("crashed at step 3" in made.log_tail for made in failed)
    assert sum(completed(store).values()) == 4
    repaired.write_text("")
    assert harness("study", path).returncode == errors.PASS
    assert_finished(store)


@pytest.mark.parametrize(
    ("way", "status"),
    [("diverge_at_step", "diverged"), ("out_of_memory_at_step", "out_of_memory")],
)
def test_an_arm_that_cannot_train_is_a_result_and_is_not_repeated(
    harness, study_file, store, way, status
):
    path = study_file(arms=f"{{bad: {{set: {{fail.{way}: 3}}}}}}")
    assert harness("study", path).returncode == errors.PASS
    assert harness("study", path).returncode == errors.PASS
    bad = [made for made in store.records() if made.launch.arm == "bad"]
    assert [made.status for made in bad] == [
        way.removesuffix("_at_step").replace("diverge", "diverged")
    ] * 2
    assert harness("study", path, "--rerun").returncode == errors.PASS
    assert len(store.records()) == 6


@pytest.mark.parametrize("way", ["half_result: true", "hang_at_step: 2"])
def test_a_trainer_that_hangs_or_writes_half_a_result_fails(harness, study_file, store, way):
    path = study_file(
        arms=f"{{bad: {{set: {{fail.{way}}}}}}}",
        seeds="[1]",
        limits="{run_minutes: 0.02}",
    )
    assert harness("study", path).returncode == errors.COULD_NOT_RUN
    bad = [made for made in store.records() if made.launch.arm == "bad"]
    assert [made.status for made in bad] == ["failed"]


def test_a_machine_on_which_everything_fails_stops_the_study(harness, study_file, store):
    path = study_file(base="fail: {crash_at_step: 1}\n", limits="{failures: 2}", seeds="[1, 2, 3]")
    done = harness("study", path)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "2 runs in a row failed" in done.stdout
    assert len(store.records()) == 2


def test_a_limit_stops_between_runs_and_the_study_can_be_resumed(harness, study_file, store):
    done = harness("study", study_file(limits="{total_minutes: 0.0001}"))
    assert done.returncode == errors.STOPPED_AT_LIMIT, done.stdout
    assert "Raise limits.total_minutes" in done.stdout
    assert len(store.records()) == 1
    done = harness("study", study_file(), "--max-minutes", "0.0001")
    assert done.returncode == errors.STOPPED_AT_LIMIT
    assert "Re-run the same command to resume" in done.stdout
    assert len(store.records()) == 1
    assert harness("study", study_file(), "--max-minutes", "5").returncode == errors.PASS
    assert_finished(store)


def test_runs_on_several_gpus_record_how_many_ran_at_once(harness, study_file, store):
    path = study_file(base="pace: {startup_ms: 1000}\n")
    assert harness("study", path, "--gpus", "0-1").returncode == errors.PASS
    assert_finished(store)
    records = store.records()
    assert {made.concurrent_runs for made in records} == {1}
    assert {made.gpus for made in records} == {1}
    for block in (1, 2):  # one block, one GPU: one environment
        assert len({m.environment_id for m in records if m.launch.block == block}) == 1
    assert len({made.environment_id for made in records}) == 2


def test_missing_gpus_are_refused(harness, study_file):
    done = harness("study", study_file(), "--gpus", "7,8")
    assert done.returncode == errors.USAGE
    assert "8" in done.stderr


def test_ctrl_c_is_recorded_and_the_same_command_resumes(
    harness, start, study_file, store, trainers, slowed
):
    path = study_file(base=slowed.lines)
    process = start("study", path)
    wait_for(lambda: trainers() and any(store.root.glob("plans/*/*/events.jsonl")))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == errors.STOPPED_AT_LIMIT, output
    assert "Re-run the same command to resume" in output
    assert trainers() == []
    assert [made.status for made in store.records()] == ["interrupted"]
    assert harness("study", study_file()).returncode == errors.PASS
    assert_finished(store)


def test_two_commands_cannot_run_one_study_at_once(harness, start, study_file, trainers, slowed):
    path = study_file(base=slowed.lines)
    start("study", path)
    wait_for(trainers)
    done = harness("study", path)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "another harness" in done.stderr


def test_killing_the_harness_at_any_moment_loses_and_repeats_no_run(
    harness, start, study_file, store, trainers
):
    path = study_file(base="pace: {sleep_ms: 5, startup_ms: 20}\n")
    chance = random.Random()  # any moment must do
    for _ in range(3):
        process = start("study", path)
        time.sleep(0.5 + 1.5 * chance.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not trainers())
    done = harness("study", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert_finished(store)
    attempts = {(made.plan_id, made.attempt) for made in store.records()}
    begun = {
        (run_dir.parent.name, run_dir.name)
        for run_dir in store.run_dirs()
        if (run_dir / "launch.json").exists()
    }
    assert begun == attempts


def test_a_trainer_that_outlives_its_harness_is_ended_by_the_next_start(
    harness, start, study_file, store, trainers, tmp_path, monkeypatch
):
    repaired = tmp_path / "repaired"
    hang = f"{{hang_at_step: 2, ignore_sigterm: true, until_file: {repaired}}}"
    path = study_file(base=f"fail: {hang}\n", seeds="[1]")
    process = start("study", path)
    wait_for(lambda: any(p.stat().st_size for p in store.root.glob("plans/*/*/events.jsonl")))
    process.kill()
    process.wait()
    (left,) = trainers()
    repaired.write_text("")
    monkeypatch.setattr(run, "GRACE_S", 0.5)
    done = harness("study", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert left not in trainers()
    assert "from a killed harness" in done.stderr
    assert_finished(store)


def test_a_killed_trainer_is_a_failed_run_that_is_repeated(
    harness, start, study_file, store, trainers, slowed
):
    path = study_file(base=slowed.lines, seeds="[1]")
    process = start("study", path)
    wait_for(trainers)
    os.kill(trainers()[0], signal.SIGKILL)
    slowed.end()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == errors.COULD_NOT_RUN, output
    assert "SIGKILL" in output
    assert harness("study", path).returncode == errors.PASS
    assert_finished(store)


def wait_for(condition, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def test_a_full_disk_under_the_trainer_is_a_failed_run(argv_of, study_file, store, harness):
    path = study_file(set="{dial.steps: 300}", seeds="[1]")
    limited = ["bash", "-c", 'ulimit -f 48; exec "$@"', "bash"]  # 48 KiB a file
    done = subprocess.run(
        [*limited, *argv_of("study", path)],
        cwd=default_checkout(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == errors.COULD_NOT_RUN, done.stdout + done.stderr
    assert {made.status for made in store.records()} == {"failed"}
    assert "File too large" in store.records()[0].log_tail
    assert harness("study", path).returncode == errors.PASS
    assert_finished(store)


def test_a_disk_that_refuses_the_record_loses_no_run(study_file, store, harness, trainers):
    path = study_file()
    store.root.mkdir()
    (store.root / "curves").write_text("in the place of a folder")
    done = harness("study", path)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "move it away" in done.stderr
    assert trainers() == []
    assert store.records() == []
    (store.root / "curves").unlink()
    done = harness("study", path)
    assert done.returncode == errors.PASS
    assert "recorded as completed" in done.stderr
    assert len(store.run_dirs()) == 6
    assert_finished(store)


# --- the order of runs ---------------------------------------------------------------------------


@pytest.fixture
def swept(resolved):
    retune = "{muon: {values: {optimizer.adamw_lr: [0.001, 0.003]}, seeds: [7]}}"
    arms = f"{{leave_one_out: [windows, muon], retune: {retune}}}"
    return resolved(arms=arms, seeds="[1, 2, 3]", horizons="[0.5, 1]")


def block(study, seed):
    return [run for run in study.runs if run.block == seed]


def test_sweeps_are_a_phase_of_their_own(swept):
    todo = tasks(swept, set(), 1, sweeps=True)
    assert {swept.arm(run.arm).role for task in todo for run in task.runs} == {"retune"}
    rest = tasks(swept, set(), 1, sweeps=False)
    assert len(todo) + sum(len(task.runs) for task in rest) == len(swept.runs)


def test_interrupted_blocks_come_first_and_horizons_last(swept):
    done = {block(swept, 2)[0].plan_id}
    todo = tasks(swept, done, 1, sweeps=False)
    assert [task.runs[0].block for task in todo] == [2, 1, 3, None, None, None]
    assert todo[0].runs == block(swept, 2)[1:]
    assert not todo[0].opens
    assert todo[1].opens == block(swept, 1)


def test_a_block_stays_on_one_gpu_where_there_are_enough_blocks(swept):
    assert [len(task.runs) for task in tasks(swept, set(), 3, sweeps=False)][:3] == [3, 3, 3]
    assert spread_blocks(swept, set(), 3) == 0


def test_blocks_are_spread_where_there_are_more_gpus_than_blocks(swept):
    todo = tasks(swept, set(), 4, sweeps=False)
    assert {len(task.runs) for task in todo} == {1}
    assert [len(task.opens) for task in todo][:4] == [3, 0, 0, 3]
    assert spread_blocks(swept, set(), 4) == 3


def test_recorded_runs_are_left_out(swept):
    done = {run.plan_id for run in swept.runs}
    assert tasks(swept, done, 1, sweeps=False) == []
    assert tasks(swept, done, 1, sweeps=True) == []


def test_a_finished_study_is_read_in_one_listing_however_many_runs_it_has(
    store, resolved, record, monkeypatch
):
    study = resolved(seeds="[" + ", ".join(map(str, range(1, 201))) + "]")
    for each in study.runs:
        data = msgspec.json.encode(record(each, study))
        files.write_bytes(store.root / "records" / f"{each.plan_id}.json", data)

    def listed(plan_id):
        raise AssertionError(f"a listing for the plan {plan_id} alone")

    monkeypatch.setattr(store, "attempts", listed)
    monkeypatch.setattr(store, "record", listed)
    command = Command(Stop())
    executor = Executor(study, store, FaultyTrainer(), StudyOptions(), SilentListener(), command)
    assert executor.execute().exit_code == errors.PASS


def test_blocks_of_many_seeds_are_found_in_one_pass(resolved):
    study = resolved(seeds="[1, 2]")
    runs = [
        msgspec.structs.replace(each, plan_id=f"{each.plan_id}{seed}", block=seed, seed=seed)
        for seed in range(10_000)
        for each in study.runs[:3]
    ]
    study = msgspec.structs.replace(study, runs=runs)
    began = time.monotonic()
    assert len(tasks(study, set(), 1, sweeps=False)) == 10_000
    assert time.monotonic() - began < 1
