"""`harness full` with the FakeTrainer: every path and every bad machine, as users meet them."""

import json
import os
import signal
import subprocess
import time

import pytest

from harness import errors
from harness.config.full_file import load_full
from harness.errors import ClusterError
from harness.full import evidence
from harness.full.job import over_nodes
from harness.runner.trainer import NativeTrainer

from ..conftest import ROOT

ALONE = "--without-forecast"


def test_a_job_without_proxies_says_why_it_cannot_be_foretold_and_starts_nothing(
    harness, job_file, store
):
    done = harness("full", job_file())
    assert done.returncode == errors.COULD_NOT_RUN
    for words in ("no forecast", "--proxies", "--without-forecast", "Nothing was started"):
        assert words in done.stdout
    assert store.records() == []


def test_a_dry_run_takes_no_gpu_and_tells_needs(harness, job_file, store):
    done = harness("full", job_file(), "--dry-run")
    assert done.returncode == errors.PASS, done.stderr
    assert "data shards" in done.stdout
    assert "no GPU" not in done.stderr
    assert not (store.root / "full" / "quick" / "plan.json").exists()


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("machine.missing_shard=2", "shard 2 is missing"),
        ("machine.free_bytes=1000", "free disk"),
        ("machine.gpus=2", "4 GPUs"),
        ("machine.mixed_gpus=true", "of another model"),
        ("machine.silent_probe=true", "the links are broken, as requested"),
        ("fail.out_of_memory_at_step=0", "out of memory"),
    ],
)
def test_a_machine_that_is_not_fit_starts_nothing(harness, job_file, store, fault, finding):
    done = harness("full", job_file(), ALONE, "--set", fault)
    assert done.returncode == errors.COULD_NOT_RUN
    assert finding in " ".join(done.stdout.replace("│", " ").split())
    assert "Nothing was started" in done.stdout
    assert store.records() == []


def test_a_preflight_tells_a_throttled_and_a_slow_rank_and_starts_nothing(
    harness, job_file, store, kept
):
    faults = ("--set", "machine.throttled_rank=3", "--set", "machine.slow_rank=1")
    done = harness("full", job_file(), "--preflight", *faults)
    assert done.returncode == errors.PASS, done.stdout
    bad = {one["what"]: one["got"] for one in kept("preflight")["findings"] if not one["ok"]}
    assert bad == {"clocks": "rank 3 at 1200 MHz", "equal ranks": "rank 1 +20.0%"}
    assert "forecast of training time" in done.stdout
    assert store.records() == []


def test_a_lost_rank_is_gone_on_from_its_checkpoint_and_the_run_is_one(harness, job_file, store):
    done = harness("full", job_file(), ALONE, "--set", "machine.rank_killed_at_step=25")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert "It goes on from the checkpoint of step 20 (restart 1 of 2)" in done.stdout
    first, second = store.records()
    assert (first.status, second.status) == ("failed", "completed")
    assert second.metrics["resumes"] == 1
    assert second.launch.ranks == second.gpus == 4
    steps = store.curve(second.plan_id).column("step").to_pylist()
    assert steps == list(range(1, second.steps + 1))


def test_a_run_that_gets_no_further_is_not_tried_again(harness, job_file, store):
    done = harness("full", job_file(), ALONE, "--set", "fail.crash_at_step=25")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "It got no further than before" in done.stdout
    assert [made.status for made in store.records()] == ["failed"] * 2


@pytest.mark.parametrize("end", ["diverge", "out_of_memory"])
def test_divergence_and_want_of_memory_are_answers_and_not_tried_again(
    harness, job_file, store, end
):
    words = ("full", job_file(), ALONE, "--set", f"fail.{end}_at_step=15")
    for _ in range(2):
        done = harness(*words)
        assert done.returncode == errors.COULD_NOT_RUN
        assert "It would end so again" in done.stdout
    assert len(store.records()) == 1


def test_a_limit_of_time_leaves_a_checkpoint_and_the_same_command_goes_on(harness, job_file, store):
    path = job_file()
    slow = ("--set", "pace.sleep_ms=40")
    done = harness("full", path, ALONE, *slow, "--max-minutes", "0.035")
    assert done.returncode == errors.STOPPED_AT_LIMIT, done.stdout
    assert "the same command goes on" in done.stdout
    (first,) = store.records()
    assert (first.status, first.steps > 0) == ("interrupted", True)
    assert harness("full", path, ALONE).returncode == errors.PASS
    assert store.records()[-1].metrics["resumes"] == 1


def test_what_goes_wrong_on_the_way_is_said_once_and_kept(harness, job_file, kept):
    faults = ("machine.slow_rank=2", "machine.throttled_rank=1", "plant.loader_wait=0.3")
    sets = [word for fault in faults for word in ("--set", fault)]
    huge = ("--set", f"machine.checkpoint_bytes={10**15}", "--set", f"machine.free_bytes={10**16}")
    done = harness("full", job_file(), ALONE, *sets, *huge)
    assert done.returncode == errors.PASS, done.stdout
    alarms = [alarm["kind"] for alarm in kept("alarms")]
    assert sorted(alarms) == ["disk", "loader", "slow rank", "throttled"]
    assert done.stdout.count("slow rank: expected") == 1


def test_a_completed_job_is_told_again_and_not_made_again(harness, job_file, store, kept, tmp_path):
    path = job_file()
    assert harness("full", path, ALONE).returncode == errors.PASS
    out = tmp_path / "evidence.tar"
    done = harness("full", path, "--json", "--evidence", out)
    assert done.returncode == errors.PASS, done.stderr
    told = json.loads(done.stdout)
    assert told["exit_code"] == 0
    assert told["row"] == kept("row")
    assert told["row"]["ranks"] == 4
    assert len(store.records()) == 1
    assert evidence.check(out) == []
    code = kept("code")
    git = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert code["commit"] == (head or None)
    assert told["row"]["commit"] == (None if code["changed"] else code["commit"])


def test_another_job_under_a_name_that_has_runs_is_refused(harness, job_file, store):
    path = job_file()
    harness("full", path, ALONE)
    done = harness("full", path, ALONE, "--set", "dial.depth=5")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "one job of this name in a store" in done.stderr
    assert len(store.records()) == 1


def test_proxies_are_made_once_and_foretell_the_job(harness, job_file, store, kept):
    path = job_file()
    done = harness("full", path, "--proxies")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert "forecast of val_bpb" in done.stdout
    assert len(store.records()) == 3
    assert "0 to make" in harness("full", path, "--proxies").stdout
    done = harness("full", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert kept("forecast")["cost"]["usd"]["estimate"] > 0
    assert kept("row")["val_bpb"] < store.records()[0].metrics["val_bpb"]
    assert "foretold of val_bpb" in done.stdout
    before = kept("forecast")
    assert harness("full", path, "--proxies").returncode == errors.PASS
    assert kept("forecast") == before  # it stays what the run was held against


def test_a_proxy_that_fails_is_told_and_the_others_are_kept(harness, job_file, store, tmp_path):
    repaired = tmp_path / "repaired"
    sets = ("--set", "fail.crash_at_step=30", "--set", f"fail.until_file={repaired}")
    done = harness("full", job_file(), "--proxies", *sets)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "crashed at step 30" in done.stdout or "failed" in done.stdout
    repaired.touch()
    assert harness("full", job_file(), "--proxies", *sets).returncode == errors.PASS


def test_a_loss_that_leaves_its_band_is_told_on_the_way(harness, job_file, kept):
    jump = "{dial.depth: 6, plant.loss_jump: 2, plant.loss_jump_at_step: 30}"
    proxies = "{field: dial.depth, values: [3, 4, 5], set: {plant.loss_jump: 0}}"
    path = job_file(set=jump, proxies=proxies)
    assert harness("full", path, "--proxies").returncode == errors.PASS
    done = harness("full", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    (alarm,) = [alarm for alarm in kept("alarms") if alarm["kind"] == "loss"]
    assert alarm["step"] >= 30
    assert "stop it while it is cheap" in done.stdout


def test_a_job_that_is_told_to_leave_ends_its_trainer_and_goes_on_later(
    start, harness, job_file, store, trainers
):
    path = job_file()
    process = start("full", path, ALONE, "--set", "pace.sleep_ms=50")
    while not any(store.root.glob("plans/*/*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == errors.STOPPED_AT_LIMIT, said
    assert trainers() == []
    assert harness("full", path, ALONE).returncode == errors.PASS
    assert [made.status for made in store.records()] == ["interrupted", "completed"]


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_trainer_that_is_ended_from_outside_goes_on_in_the_same_command(
    start, job_file, store, trainers, number
):
    process = start("full", job_file(), ALONE, "--set", "pace.sleep_ms=50")
    while not any(store.root.glob("plans/*/*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    for pid in trainers():
        os.kill(pid, number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == errors.PASS, said
    first, second = store.records()
    assert first.status == ("interrupted" if number == signal.SIGTERM else "failed")
    assert (second.status, second.metrics["resumes"]) == ("completed", 1)


def test_a_killed_harness_loses_nothing(start, harness, job_file, store, trainers):
    path = job_file()
    process = start("full", path, ALONE, "--set", "pace.sleep_ms=50")
    while not any(store.root.glob("plans/*/*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = harness("full", path, ALONE)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert "A killed harness had left" in done.stdout
    assert store.records()[-1].metrics["resumes"] == 1
    assert trainers() == []


def test_a_baseline_that_nobody_has_is_refused_before_anything_is_spent(harness, job_file, store):
    done = harness("full", job_file(baseline="nobody"), ALONE)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "baseline nobody" in done.stderr
    assert store.records() == []


def test_several_nodes_without_an_allocation_are_refused_with_the_way_to_one(job_file, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    trainer = over_nodes(NativeTrainer(), load_full(job_file(nodes="2")))
    with pytest.raises(ClusterError, match="harness submit"):
        trainer.train_command(ROOT / "c.json", ROOT, 4)


def test_a_baseline_of_another_machine_decides_nothing_and_the_row_is_told(
    harness, job_file, kept, tmp_path
):
    path = job_file(baseline="alone")
    baselines = ("--baselines", tmp_path / "baselines")
    same = ("--set", "dial.depth=6", "--set", "core.examples=20")
    record = ("baseline", "record", "alone", tmp_path / "base.yaml", "--trainer", "fake", *same)
    done = harness(*record, "--seeds", "1-2", *baselines)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    other = harness("full", path, ALONE, *baselines, "--set", "windows=null")
    assert "baseline" in other.stderr
    assert other.returncode == errors.COULD_NOT_RUN
    done = harness("full", path, ALONE, *baselines)
    assert done.returncode == errors.INCONCLUSIVE, done.stdout + done.stderr
    assert "none against" in kept("row")["verdict"]
