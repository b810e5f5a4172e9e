"""The artifact bundle: reproducible bytes, hashes that detect changes, unpacking to a store."""

import hashlib
import tarfile

import pytest

from harness import files
from harness.errors import UsageError
from harness.full.artifacts import job_dir, pack, save_code
from harness.results.archive import unpack
from harness.results.store import Store


@pytest.fixture
def job(leave_run, store):
    """A store with a job of one run and two proxies, all of which evaluated CORE."""
    for seed in (1, 2, 3):
        leave_run(seed, at=float(seed))
    folder = job_dir(store, "toy")
    folder.mkdir(parents=True)
    files.write_json(folder / "preflight.json", {"log": f"{store.root}/plans/x/log.txt"})
    (folder / "leaderboard_entry.md").write_text("| row |\n")
    run, *proxies = store.records()
    events = store.run_dir(run.plan_id, run.attempt) / "events.jsonl"
    events.write_text('{"event":"step","step":1}\n{"event":"st')
    return [run], proxies


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_the_bundle_contains_job_and_proxies_and_only_the_jobs_core_answers(job, store, tmp_path):
    run, proxies = job
    count = pack(store, "toy", tmp_path / "e.tar", job=run, proxies=proxies)
    names = members(tmp_path / "e.tar")
    assert count == len(names)
    assert {f"records/{one.plan_id}.json" for one in (*run, *proxies)} <= set(names)
    assert [name for name in names if name.startswith("core/")] == [
        f"core/{run[0].plan_id}.parquet"
    ]
    assert {"full/toy/leaderboard_entry.md", "full/toy/SHA256SUMS"} <= set(names)
    assert f"plans/{run[0].plan_id}/a/events.jsonl" in names


def test_the_same_store_gives_the_same_bytes_and_no_path_of_the_machine(job, store, tmp_path):
    for name in ("a.tar", "b.tar"):
        pack(store, "toy", tmp_path / name, job=job[0], proxies=job[1])
    first = (tmp_path / "a.tar").read_bytes()
    assert first == (tmp_path / "b.tar").read_bytes()
    assert str(tmp_path).encode() not in first


def test_an_unpacked_bundle_is_a_store_with_the_same_records(job, store, tmp_path):
    pack(store, "toy", tmp_path / "e.tar", job=job[0], proxies=job[1])
    other = Store(tmp_path / "other")
    merged = unpack(tmp_path / "e.tar", other)
    assert (merged.records, merged.jobs, merged.run_dirs) == (3, 1, 1)
    assert other.records() == store.records()
    assert (job_dir(other, "toy") / "leaderboard_entry.md").read_text() == "| row |\n"
    assert unpack(tmp_path / "e.tar", store).known == 3  # and back where it came from


def test_the_sums_have_the_format_of_sha256sum(job, store, tmp_path):
    pack(store, "toy", tmp_path / "e.tar", job=job[0], proxies=job[1])
    names = members(tmp_path / "e.tar")
    for line in names.pop("full/toy/SHA256SUMS").decode().splitlines():
        digest, path = line.split("  ")
        assert hashlib.sha256(names.pop(path)).hexdigest() == digest
    assert not names


def test_an_unknown_job_is_refused_with_the_known_ones(job, store, tmp_path):
    with pytest.raises(UsageError, match="toy"):
        pack(store, "d24", tmp_path / "e.tar", job=job[0], proxies=[])
    assert not (tmp_path / "e.tar").exists()


def test_the_code_of_a_job_is_stored_with_its_difference_from_the_commit(tmp_path, git_checkout):
    (git_checkout / "a.py").write_text("two\n")
    (git_checkout / "b.py").write_text("new\n")
    save_code(tmp_path / "job", git_checkout)
    code = files.read_json(tmp_path / "job" / "code.json")
    assert code["changed"] is True
    assert code["untracked_files"] == ["b.py"]
    assert len(code["commit"]) == 40
    assert b"+two" in (tmp_path / "job" / "code.patch").read_bytes()


def test_outside_a_repository_no_commit_is_stored(tmp_path):
    save_code(tmp_path / "job", tmp_path)
    code = files.read_json(tmp_path / "job" / "code.json")
    assert code == {"commit": None, "changed": False, "untracked_files": []}
