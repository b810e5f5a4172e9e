"""A job whose command is given again: elsewhere, with other settings, by another name, in haste."""

import json

import pytest

from harness import errors
from harness.config.full_file import load_full
from harness.full.evidence import CODE_PATCH, save_code
from harness.full.plan import plan
from harness.full.series import visible
from harness.runner.trainer import FakeTrainer

from ..conftest import ROOT

ALONE = "--without-forecast"


def row_of(done):
    """The lines of a row that tell what it took."""
    return [line for line in done.stdout.splitlines() if "from start to end" in line]


def test_a_row_made_again_from_its_evidence_counts_what_was_lost_on_the_way(
    harness, job_file, tmp_path
):
    path, tar = job_file(price_usd_per_gpu_hour="9000"), tmp_path / "e.tar"
    killed = ("--set", "machine.rank_killed_at_step=25")
    made = harness("full", path, ALONE, *killed, "--evidence", tar)
    assert made.returncode == errors.PASS, made.stdout
    other = tmp_path / "other"
    assert harness("unpack", tar, "--store", other).returncode == errors.PASS
    again = harness("full", path, ALONE, *killed, "--store", other)
    assert row_of(again) == row_of(made) != []


def test_nothing_of_a_finished_job_changes_by_a_look_with_other_settings(harness, job_file, store):
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


def test_a_finished_job_under_another_name_has_the_commit_that_it_was_made_from(
    harness, job_file, store
):
    harness("full", job_file(), ALONE)
    (code,) = store.root.glob("full/*/code.json")
    told = json.loads(code.read_text())
    code.write_text(json.dumps({**told, "commit": "0123456789", "changed": False}))
    done = harness("full", job_file(full="renamed"), ALONE)
    assert done.returncode == errors.PASS
    assert "0123456" in done.stdout
    assert (store.root / "full" / "renamed" / "job.yaml").exists()


def test_a_patch_of_an_earlier_launch_does_not_stay_beside_clean_code(tmp_path, monkeypatch):
    (tmp_path / CODE_PATCH).write_text("of before")
    monkeypatch.setattr("harness.full.evidence._git", lambda *_: b"")
    save_code(tmp_path, ROOT)
    assert not (tmp_path / CODE_PATCH).exists()


def test_minutes_end_a_step_test_too(harness, job_file):
    slow = ("--set", "pace.startup_ms=20000", "--max-minutes", "0.03")
    done = harness("full", job_file(), ALONE, *slow)
    assert done.returncode == errors.STOPPED_AT_LIMIT
    assert "--max-minutes 0.03 are over" in done.stdout


def test_proxies_that_diverge_are_not_offered_again(harness, job_file, store):
    path = job_file()
    for todo in (3, 0):
        done = harness("full", path, "--proxies", "--set", "fail.diverge_at_step=5")
        assert done.returncode == errors.COULD_NOT_RUN
        assert f"3 proxies, {todo} to make" in done.stdout
        assert "They would end so again" in done.stdout
    assert len(store.records()) == 3


@pytest.mark.parametrize(
    ("named", "gpus"), [(None, ["0", "1"]), ("6,7,2", ["6", "7"]), ("GPU-a,GPU-b", None)]
)
def test_proxies_run_on_the_gpus_that_this_process_may_use(monkeypatch, named, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible(2) == (gpus or named.split(","))


def test_what_proxies_set_whole_takes_the_place_of_its_parts_in_the_job(job_file):
    path = job_file(
        set="{dial.depth: 6, core.examples: 20}",
        proxies="{field: dial.depth, values: [3, 4, 5], set: {core: {examples: 5}}}",
    )
    config = plan(load_full(path), path, FakeTrainer()).proxies[0].job.config
    assert config["core"]["examples"] == 5
