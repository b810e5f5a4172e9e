"""`harness full` with the FakeTrainer: every path and every unfit machine, as users see them."""

import json
import os
import signal
import subprocess
import tarfile
import time

import pytest

from harness import errors
from harness.config.full_file import load_full
from harness.errors import ClusterError
from harness.full.job import multinode_trainer
from harness.runner.trainer import NativeTrainer

from ..conftest import ROOT

pytestmark = pytest.mark.slow  # whole jobs; CI runs them by themselves

ALONE = "--without-forecast"


def output(done):
    """Results and progress of a command."""
    return done.stdout + done.stderr


def test_a_job_without_proxies_starts_nothing_and_gives_the_reason(harness, job_file, store):
    done = harness("full", job_file())
    assert done.returncode == errors.COULD_NOT_RUN
    for text in ("no forecast", "--proxies", "--without-forecast", "Nothing was started"):
        assert text in output(done)
    assert store.records() == []


def test_a_dry_run_prints_requirements_and_stores_nothing(harness, job_file, store):
    done = harness("full", job_file(), "--dry-run", ALONE)
    assert done.returncode == errors.PASS, done.stderr
    assert "data shards" in output(done)
    assert "no GPU" not in done.stderr
    assert not (store.root / "full" / "quick" / "plan.json").exists()


def test_a_dry_run_without_a_forecast_exits_as_the_job_would(harness, job_file):
    done = harness("full", job_file(), "--dry-run")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "no forecast: " in done.stdout
    assert "Dry run: the job cannot start, there is no forecast." in done.stdout
    assert harness("full", job_file(), "--dry-run", "--proxies").returncode == errors.PASS


def test_a_dry_run_that_finds_errors_exits_with_could_not_run(harness, job_file, store):
    done = harness("full", job_file(), "--dry-run", ALONE, "--set", "machine.missing_shard=2")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "the job cannot start, the preflight found 1 error" in done.stdout
    assert store.records() == []


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
def test_an_unfit_machine_starts_nothing(harness, job_file, store, fault, finding):
    done = harness("full", job_file(), ALONE, "--set", fault)
    assert done.returncode == errors.COULD_NOT_RUN
    assert finding in " ".join(output(done).replace("│", " ").split())
    assert "Nothing was started" in output(done)
    assert store.records() == []


def test_a_preflight_finds_a_throttled_and_a_slow_rank_and_starts_nothing(
    harness, job_file, store, kept
):
    faults = ("--set", "machine.throttled_rank=3", "--set", "machine.slow_rank=1")
    done = harness("full", job_file(), "--preflight", *faults)
    assert done.returncode == errors.PASS, output(done)
    bad = {one["what"]: one["got"] for one in kept("preflight")["findings"] if not one["ok"]}
    assert bad == {"clocks": "rank 3 at 1200 MHz", "equal ranks": "rank 1 +20.0 %"}
    assert "forecast of training time" in output(done)
    assert store.records() == []


def test_a_run_resumes_from_its_checkpoint_after_a_lost_rank(harness, job_file, store):
    done = harness("full", job_file(), ALONE, "--set", "machine.rank_killed_at_step=25")
    assert done.returncode == errors.PASS, output(done)
    assert "It resumes from the checkpoint of step 20 (restart 1 of 2)" in output(done)
    first, second = store.records()
    assert (first.status, second.status) == ("failed", "completed")
    assert second.metrics["resumes"] == 1
    assert second.launch.ranks == second.gpus == 4
    steps = store.curve(second.plan_id).column("step").to_pylist()
    assert steps == list(range(1, second.steps + 1))


def test_a_run_that_gets_no_further_is_not_restarted(harness, job_file, store):
    done = harness("full", job_file(), ALONE, "--set", "fail.crash_at_step=25")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "It got no further than the attempt before" in output(done)
    assert [made.status for made in store.records()] == ["failed"] * 2


@pytest.mark.parametrize("end", ["diverge", "out_of_memory"])
def test_divergence_and_out_of_memory_are_results_and_not_repeated(harness, job_file, store, end):
    argv = ("full", job_file(), ALONE, "--set", f"fail.{end}_at_step=15")
    for _ in range(2):
        done = harness(*argv)
        assert done.returncode == errors.COULD_NOT_RUN
        assert "The run would fail again, so it is not repeated" in output(done)
    assert len(store.records()) == 1


def test_a_time_limit_leaves_a_checkpoint_and_the_same_command_resumes(harness, job_file, store):
    path = job_file()
    slow = ("--set", "pace.sleep_ms=200")
    done = harness("full", path, ALONE, *slow, "--max-minutes", "0.15")
    assert done.returncode == errors.STOPPED_AT_LIMIT, output(done)
    assert "Re-run the same command to resume" in output(done)
    (first,) = store.records()
    assert (first.status, first.steps > 0) == ("interrupted", True)
    assert harness("full", path, ALONE).returncode == errors.PASS
    assert store.records()[-1].metrics["resumes"] == 1


def test_every_alert_is_printed_once_and_stored(harness, job_file, kept):
    faults = ("machine.slow_rank=2", "machine.throttled_rank=1", "plant.loader_wait=0.3")
    sets = [word for fault in faults for word in ("--set", fault)]
    huge = ("--set", f"machine.checkpoint_bytes={10**15}", "--set", f"machine.free_bytes={10**16}")
    done = harness("full", job_file(), ALONE, *sets, *huge)
    assert done.returncode == errors.PASS, output(done)
    kinds = [alert["kind"] for alert in kept("alerts")]
    assert sorted(kinds) == ["disk", "loader", "slow rank", "throttled"]
    assert output(done).count("slow rank: expected") == 1


def test_a_completed_job_is_reported_again_and_not_run_again(
    harness, job_file, store, kept, tmp_path
):
    path = job_file()
    assert harness("full", path, ALONE).returncode == errors.PASS
    out = tmp_path / "artifacts.tar"
    done = harness("full", path, "--json", "--artifacts", out)
    assert done.returncode == errors.PASS, done.stderr
    data = json.loads(done.stdout)
    assert data["exit_code"] == 0
    assert data["leaderboard_entry"] == kept("leaderboard_entry")
    assert data["leaderboard_entry"]["ranks"] == 4
    assert len(store.records()) == 1
    with tarfile.open(out) as tar:
        assert "full/quick/SHA256SUMS" in tar.getnames()
    code = kept("code")
    git = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert code["commit"] == (head or None)
    assert data["leaderboard_entry"]["commit"] == (None if code["changed"] else code["commit"])


def test_another_job_under_a_name_that_has_runs_is_refused(harness, job_file, store):
    path = job_file()
    harness("full", path, ALONE)
    done = harness("full", path, ALONE, "--set", "dial.depth=5")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "one job of this name in a store" in done.stderr
    assert len(store.records()) == 1


def test_proxies_run_once_and_forecast_the_job(harness, job_file, store, kept):
    path = job_file()
    done = harness("full", path, "--proxies")
    assert done.returncode == errors.PASS, output(done)
    assert "forecast of val_bpb" in output(done)
    assert len(store.records()) == 3
    assert "0 to run" in output(harness("full", path, "--proxies"))
    done = harness("full", path)
    assert done.returncode == errors.PASS, output(done)
    assert kept("forecast")["cost"]["usd"]["estimate"] > 0
    assert kept("leaderboard_entry")["val_bpb"] < store.records()[0].metrics["val_bpb"]
    assert "forecast of val_bpb" in output(done)
    before = kept("forecast")
    assert harness("full", path, "--proxies").returncode == errors.PASS
    assert kept("forecast") == before  # the run is checked against this one


def test_a_failed_proxy_is_reported_and_the_others_are_kept(harness, job_file, store, tmp_path):
    repaired = tmp_path / "repaired"
    sets = ("--set", "fail.crash_at_step=30", "--set", f"fail.until_file={repaired}")
    done = harness("full", job_file(), "--proxies", *sets)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "crashed at step 30" in output(done) or "failed" in output(done)
    repaired.touch()
    assert harness("full", job_file(), "--proxies", *sets).returncode == errors.PASS


def test_a_loss_outside_its_envelope_raises_an_alert_during_the_run(harness, job_file, kept):
    jump = "{dial.depth: 6, plant.loss_jump: 2, plant.loss_jump_at_step: 1}"
    proxies = "{field: dial.depth, values: [3, 4, 5], set: {plant.loss_jump: 0}}"
    path = job_file(set=jump, proxies=proxies)
    assert harness("full", path, "--proxies").returncode == errors.PASS
    done = harness("full", path)
    assert done.returncode == errors.PASS, output(done)
    (alert,) = [alert for alert in kept("alerts") if alert["kind"] == "loss"]
    low, _, high, *_ = alert["expected"].split()
    assert float(low) < float(alert["got"]) - 2 < float(high)  # as expected, but for the jump
    assert "consider stopping the run early" in output(done)


def test_a_stopped_job_ends_its_trainer_and_resumes_later(
    start, harness, job_file, store, trainers, slowed
):
    path = job_file()
    process = start("full", path, ALONE, *slowed.options)
    while not any(store.root.glob("plans/*/*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == errors.STOPPED_AT_LIMIT, text
    assert trainers() == []
    assert harness("full", path, ALONE).returncode == errors.PASS
    assert [made.status for made in store.records()] == ["interrupted", "completed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_trainer_killed_from_outside_is_resumed_by_the_same_command(
    start, job_file, store, trainers, slowed, number
):
    process = start("full", job_file(), ALONE, *slowed.options)
    while not any(store.root.glob("plans/*/*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    for pid in trainers():
        os.kill(pid, number)
    slowed.end()
    text, _ = process.communicate(timeout=20)
    assert process.returncode == errors.PASS, text
    first, second = store.records()
    assert first.status == ("interrupted" if number == signal.SIGTERM else "failed")
    assert (second.status, second.metrics["resumes"]) == ("completed", 1)


def test_a_killed_harness_loses_nothing(start, harness, job_file, store, trainers, slowed):
    path = job_file()
    process = start("full", path, ALONE, *slowed.options)
    while not any(store.root.glob("plans/*/*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = harness("full", path, ALONE)
    assert done.returncode == errors.PASS, output(done)
    assert "from a killed harness" in output(done)
    assert store.records()[-1].metrics["resumes"] == 1
    assert trainers() == []


def test_an_unknown_baseline_is_refused_before_anything_runs(harness, job_file, store):
    done = harness("full", job_file(baseline="nobody"), ALONE)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "baseline nobody" in done.stderr
    assert store.records() == []


def test_several_nodes_without_an_allocation_are_refused_with_a_hint(job_file, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    trainer = multinode_trainer(NativeTrainer(), load_full(job_file(nodes="2")))
    with pytest.raises(ClusterError, match="harness submit"):
        trainer.train_command(ROOT / "c.json", ROOT, 4)


def test_a_baseline_of_another_machine_is_inconclusive_and_the_entry_is_printed(
    harness, job_file, kept, tmp_path
):
    path = job_file(baseline="alone")
    baselines = ("--baselines", tmp_path / "baselines")
    same = ("--set", "dial.depth=6", "--set", "core.examples=20")
    record = ("baseline", "record", "alone", tmp_path / "base.yaml", "--trainer", "fake", *same)
    done = harness(*record, "--seeds", "1-2", *baselines)
    assert done.returncode == errors.PASS, output(done)
    other = harness("full", path, ALONE, *baselines, "--set", "windows=null")
    assert "baseline" in other.stderr
    assert other.returncode == errors.COULD_NOT_RUN
    done = harness("full", path, ALONE, *baselines)
    assert done.returncode == errors.INCONCLUSIVE, output(done)
    assert "not comparable with" in kept("leaderboard_entry")["decision"]
