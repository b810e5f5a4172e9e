"""Re-running a job: elsewhere, with other settings, under another name, with a time limit."""

import json

import pytest

from harness import errors
from harness.config.full_file import load_full
from harness.full.artifacts import CODE_PATCH, save_code
from harness.full.plan import plan_job
from harness.full.proxy_runs import visible_gpus
from harness.runner.trainer import FakeTrainer

from ..conftest import ROOT

ALONE = "--without-forecast"


def wall_time_of(done):
    """The lines of an entry with its wall time."""
    return [line for line in done.stdout.splitlines() if "from start to end" in line]


def test_an_entry_made_again_from_its_artifacts_includes_lost_attempts(harness, job_file, tmp_path):
    path, tar = job_file(price_usd_per_gpu_hour="9000"), tmp_path / "e.tar"
    killed = ("--set", "machine.rank_killed_at_step=25")
    made = harness("full", path, ALONE, *killed, "--artifacts", tar)
    assert made.returncode == errors.PASS, made.stdout
    other = tmp_path / "other"
    assert harness("unpack", tar, "--store", other).returncode == errors.PASS
    again = harness("full", path, ALONE, *killed, "--store", other)
    assert wall_time_of(again) == wall_time_of(made) != []


def test_a_finished_job_is_unchanged_by_commands_with_other_settings(harness, job_file, store):
    assert harness("full", job_file(), ALONE).returncode == errors.PASS
    folder = store.root / "full" / "quick"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    look = harness("full", job_file(), "--dry-run", "--set", "dial.depth=7")
    other = harness("full", job_file(seed="2"), ALONE)
    same = harness("full", job_file(), "--dry-run")
    assert [look.returncode, other.returncode] == [errors.COULD_NOT_RUN] * 2
    assert same.returncode == errors.PASS
    assert "one job of this name" in look.stderr
    assert "one job of this name" in other.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_a_finished_job_under_another_name_keeps_its_commit(harness, job_file, store):
    harness("full", job_file(), ALONE)
    (code,) = store.root.glob("full/*/code.json")
    stored = json.loads(code.read_text())
    code.write_text(json.dumps({**stored, "commit": "0123456789", "changed": False}))
    done = harness("full", job_file(full="renamed"), ALONE)
    assert done.returncode == errors.PASS
    assert "0123456" in done.stdout
    assert (store.root / "full" / "renamed" / "job.yaml").exists()


def test_a_patch_of_an_earlier_launch_is_removed_for_clean_code(tmp_path, monkeypatch):
    (tmp_path / CODE_PATCH).write_text("of before")
    monkeypatch.setattr("harness.full.artifacts._git", lambda *_: b"")
    save_code(tmp_path, ROOT)
    assert not (tmp_path / CODE_PATCH).exists()


def test_a_time_limit_ends_a_step_test_too(harness, job_file):
    slow = ("--set", "pace.startup_ms=20000", "--max-minutes", "0.03")
    done = harness("full", job_file(), ALONE, *slow)
    assert done.returncode == errors.STOPPED_AT_LIMIT
    assert "--max-minutes 0.03 is reached" in done.stdout


def test_diverged_proxies_are_not_run_again(harness, job_file, store):
    path = job_file()
    for todo in (3, 0):
        done = harness("full", path, "--proxies", "--set", "fail.diverge_at_step=5")
        assert done.returncode == errors.COULD_NOT_RUN
        assert f"3 proxies, {todo} to run" in done.stderr
        assert "would fail again" in done.stdout
    assert len(store.records()) == 3


@pytest.mark.parametrize(
    ("named", "gpus"), [(None, ["0", "1"]), ("6,7,2", ["6", "7"]), ("GPU-a,GPU-b", None)]
)
def test_proxies_run_on_the_gpus_that_this_process_may_use(monkeypatch, named, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus(2) == (gpus or named.split(","))


def test_a_section_set_for_proxies_replaces_the_jobs_fields_inside_it(job_file):
    path = job_file(
        set="{dial.depth: 6, core.examples: 20}",
        proxies="{field: dial.depth, values: [3, 4, 5], set: {core: {examples: 5}}}",
    )
    config = plan_job(load_full(path), path, FakeTrainer()).proxies[0].job.config
    assert config["core"]["examples"] == 5
