"""A job from submission to its end, on submitit's executor of this machine."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import errors
from harness.cli.slurm import status
from harness.cli.slurm import submit as submit_module
from harness.cli.slurm.job import Job, SlurmAllocation, run_job
from harness.cli.slurm.status import JobStatus, controllers, exit_code_of
from harness.cli.slurm.submission import (
    ARGV,
    EventLog,
    log_path,
    submissions,
    with_passwords,
)
from harness.cli.slurm.submit import SubmitRequest, slurm_parameters
from harness.config.cluster_file import parse_cluster


@pytest.fixture
def running(store):
    """submitit's processes that watch the store's jobs."""
    return lambda: [pid for folder, _ in submissions(store.root) for pid in controllers(folder)]


def test_a_submitted_study_runs_and_returns_its_exit_code(
    submit, study_file, cluster_file, store, events
):
    done = submit("--wait", cluster_file(requeue=0), "--", "study", study_file(), "--no-html")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert len(store.records()) == 6
    ((folder, made),) = submissions(store.root)
    assert made.argv == ["study", str(study_file()), "--no-html"]
    assert made.text == cluster_file(requeue=0).read_text()
    log = log_path(folder, made.jobs[0]).read_text()
    assert "--max-minutes 4.50" in log  # five minutes, less half a minute to end cleanly
    assert "6 of 6 runs completed" in log
    assert [(event.event, event.exit_code) for event in events()] == [
        ("started", None),
        ("ended", errors.PASS),
    ]


def test_a_command_that_could_not_run_gives_the_job_its_exit_code(submit, tmp_path, cluster_file):
    (tmp_path / "empty.yaml").write_text("")
    path = cluster_file(requeue=3)
    done = submit("--wait", path, "--", "study", tmp_path / "empty.yaml")
    assert done.returncode == errors.USAGE, done.stdout + done.stderr
    assert "ended" in done.stdout
    assert " 0 study" in done.stdout  # never started again


def test_two_commands_that_submit_the_same_wait_for_one_job(
    study_file, cluster_file, store, tmp_path
):
    path = study_file("pace: {startup_ms: 500}\nfail: {crash_at_step: 1}\n", seeds="[1]")
    argv = [sys.executable, "-m", "harness", "submit", "--wait", "--store", str(store.root)]
    argv += [str(cluster_file()), "--", "study", str(path), "--no-html"]
    places = [tmp_path / "first", tmp_path / "second"]
    with places[0].open("wb") as first, places[1].open("wb") as second:
        both = [subprocess.Popen(argv, stdout=out, stderr=out) for out in (first, second)]
        codes = [one.wait(120) for one in both]
    outputs = sorted(place.read_text() for place in places)
    assert codes == [errors.COULD_NOT_RUN] * 2, outputs
    ((_, made),) = submissions(store.root)
    assert outputs[0].startswith(f"already submitted, and not over: {made.id}: local job ")
    assert outputs[1].startswith(f"submitted {made.id}: ")


@pytest.mark.parametrize("case", ["over", "cancelled", "another file", "one more worker"])
def test_a_job_that_does_another_work_is_submitted(store, tmp_path, monkeypatch, case):
    monkeypatch.setattr(submit_module, "_submit_array", lambda executor, jobs: ["7"])
    live = None if case == "over" else "RUNNING"
    monkeypatch.setattr(status, "_local_states", lambda *_: {"7": live} if live else {})
    monkeypatch.setattr(status, "SETTLES_S", 0.0)
    argv = ["search", "a.yaml", *(["--worker"] if case == "one more worker" else [])]
    request = SubmitRequest(argv=argv, store=store.root, options={})
    text = "kind: local\nminutes: 5\n"

    def submitted(text=text):
        return submit_module.submit(parse_cluster(text, ""), tmp_path, text, request, tmp_path)

    first, _ = submitted()
    if case == "cancelled":
        (store.root / "jobs" / first.id / "cancelled").touch()
    _, is_new = submitted(text + "requeue: 1\n" if case == "another file" else text)
    assert is_new


@pytest.mark.slow
def test_a_job_near_its_limit_stops_and_the_next_start_resumes(
    submit, study_file, cluster_file, store, events, running
):
    path = study_file("pace: {sleep_ms: 40}\n")
    assert submit(cluster_file(requeue=2), "--", "study", path, "--no-html").returncode == 0
    _wait_for(lambda: len(store.run_dirs()) > 1)
    (task,) = _tasks(running())
    os.kill(task, signal.SIGUSR2)
    _wait_for(lambda: not running())
    logged = [(event.event, event.exit_code, event.requeued) for event in events()]
    assert logged == [
        ("started", None, False),
        ("stop_requested", None, False),
        ("ended", errors.STOPPED_AT_LIMIT, True),
        ("started", None, False),
        ("ended", errors.PASS, False),
    ]
    statuses = [made.status for made in store.records()]
    assert sorted(statuses) == ["completed"] * 6 + ["interrupted"]


@pytest.mark.slow
def test_a_cancelled_job_ends_and_is_not_started_again(
    submit, study_file, cluster_file, store, events, running
):
    path = study_file("pace: {sleep_ms: 40}\n")
    submit(cluster_file(requeue=2), "--", "study", path, "--no-html")
    _wait_for(lambda: len(store.run_dirs()) > 1)
    ((_, made),) = submissions(store.root)
    assert "cancelled" in submit("--cancel", made.id).stdout
    _wait_for(lambda: not running())
    assert (events()[-1].exit_code, events()[-1].requeued) == (errors.STOPPED_AT_LIMIT, False)
    assert "it was cancelled" in submit("--jobs").stdout
    (job,) = json.loads(submit("--jobs", "--json").stdout)
    assert (job["state"], job["exit_code"]) == ("ended", errors.STOPPED_AT_LIMIT)
    assert job["reason"] == "it was cancelled"


@pytest.mark.slow
def test_a_start_that_records_nothing_is_not_repeated(
    submit, study_file, cluster_file, harness, events
):
    path = study_file(limits="{run_minutes: 1, total_minutes: 0.0001}")
    harness("study", path, "--seeds", "1")
    done = submit("--wait", cluster_file(requeue=3), "--", "study", path, "--no-html")
    assert done.returncode == errors.STOPPED_AT_LIMIT, done.stdout
    assert len(events()) == 2
    assert "recorded nothing" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "expected a cluster file"),
        (["FILE", "--", "report", "quick"], "one of the commands study, search"),
        (["FILE", "--", "study", "STUDY", "--no-htm"], "No such option"),
        (["absent.yaml", "--", "study", "STUDY"], "no such file"),
        (["FILE", "--", "study", "absent.yaml"], "absent.yaml"),
        (["--cancel", "7"], "the id of a submission"),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_it_waits_in_a_queue(
    harness, study_file, cluster_file, store, argv, message
):
    named = {"FILE": cluster_file(requeue=0), "STUDY": study_file()}
    done = harness("submit", *[named.get(text, text) for text in argv])
    assert done.returncode == errors.USAGE
    assert message in done.stderr
    assert not submissions(store.root)


@pytest.mark.parametrize(
    ("printed", "left_s"), [("1000297", 297.0), ("1000000", 0.0), ("999990", -10.0), ("N/A", None)]
)
def test_the_remaining_time_comes_from_the_end_time_that_squeue_prints(
    tmp_path, monkeypatch, printed, left_s
):
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\n[ "$SLURM_TIME_FORMAT" = %s ] && echo {printed}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    assert SlurmAllocation().left_s() == left_s


def test_slurm_gets_the_parameters_of_the_cluster_file_and_no_others():
    plain = slurm_parameters(parse_cluster("kind: slurm\nminutes: 9\n", "c.yaml"), "study")
    assert not {"partition", "account", "qos", "exclude", "gpus_per_node", "mem"} & set(plain)
    assert plain["additional_parameters"] == {"signal": "B:USR2@120", "requeue": True}
    text = (
        "kind: slurm\nminutes: 9\nnodes: 2\ngpus_per_node: 8\nmemory_gb: 1.5\n"
        "exclude: [a1, a2]\nrequeue: 0\nsetup: [module load cuda]\n"
    )
    given = slurm_parameters(parse_cluster(text, "c.yaml"), "full")
    assert (given["nodes"], given["ntasks_per_node"], given["gpus_per_node"]) == (2, 1, 8)
    assert (given["mem"], given["exclude"], given["time"]) == ("1536M", "a1,a2", 9)
    assert given["setup"] == ["set -e", "module load cuda"]
    assert given["additional_parameters"] == {"signal": "B:USR2@120", "no-requeue": True}


def test_without_slurm_on_the_machine_the_hint_names_a_login_node(
    harness, study_file, cluster_file, monkeypatch, store
):
    monkeypatch.setenv("PATH", "/nowhere")
    path = cluster_file(kind="slurm", shared_store="true")
    done = harness("submit", path, "--", "study", study_file())
    assert done.returncode == errors.COULD_NOT_RUN
    assert "sbatch" in done.stderr
    assert "login node" in done.stderr
    assert not submissions(store.root)


def test_a_study_has_one_job(harness, study_file, cluster_file):
    done = harness("submit", cluster_file(jobs=2, requeue=0), "--", "study", study_file())
    assert done.returncode == errors.USAGE
    assert "--gpus 0-7" in done.stderr


@pytest.mark.slow
def test_a_password_is_in_one_file_of_its_owner_and_nowhere_else(
    submit, study_file, cluster_file, store
):
    pytest.importorskip("optuna")
    search = study_file("bowl: {curvature: 0.1}\n").parent / "search.yaml"
    search.write_text(
        "search: quick\ntrainer: fake\nbase: base.yaml\nspace: {bowl.x: {float: [-1, 1]}}\n"
        "budget: {trials: 1}\nconfirm: null\n"
    )
    url = "postgresql://me:secret@127.0.0.1:1/nowhere"
    done = submit("--wait", cluster_file(requeue=0), "--", "search", search, "--storage", url)
    assert done.returncode == errors.COULD_NOT_RUN, done.stdout + done.stderr
    ((folder, made),) = submissions(store.root)
    log = log_path(folder, made.jobs[0]).read_text()
    assert log.count("me:***@127.0.0.1") == 2  # in the command and in its error
    assert "a storage that answers" in log
    assert "secret" not in done.stdout + done.stderr
    holding = [path for path in folder.rglob("*") if b"secret" in path.read_bytes()]
    assert [path.name for path in holding] == [ARGV]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    argv = with_passwords(folder, [*made.argv, "--worker"])
    assert argv == ["search", str(search), "--storage", url, "--worker"]


class _Allocation:
    """One whose scheduler requests a stop at once."""

    number = "7"

    def left_s(self):
        os.kill(os.getpid(), signal.SIGTERM)

    def is_running(self):
        return True

    def requeue(self):
        return errors.STOPPED_AT_LIMIT


@pytest.mark.parametrize("worker", [True, False])
def test_a_worker_that_was_stopped_and_recorded_nothing_is_not_requeued(store, tmp_path, worker):
    argv = ["search", "a.yaml", *(["--worker"] if worker else [])]
    job = Job(
        kind="local",
        folder=str(tmp_path),
        store=str(store.root),
        argv=argv,
        takes_minutes=True,
        max_minutes=None,
        limit_s=60.0,
        reserve_s=1.0,
        requeue=3,
    )
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        assert run_job(job, _Allocation()) == errors.STOPPED_AT_LIMIT
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert EventLog(tmp_path, "7").events()[-1].requeued is not worker


def test_a_job_that_could_not_run_ranks_above_jobs_that_were_stopped(tmp_path):
    def job(code):
        return JobStatus(
            submission="a",
            number="1",
            argv=[],
            state="ended",
            live=False,
            exit_code=code,
            restarts=0,
            reason="",
            log=tmp_path,
        )

    stopped, failed = job(errors.STOPPED_AT_LIMIT), job(errors.COULD_NOT_RUN)
    assert exit_code_of([stopped, failed, stopped]) == errors.COULD_NOT_RUN
    assert exit_code_of([job(errors.PASS), stopped]) == errors.STOPPED_AT_LIMIT
    assert exit_code_of([failed, job(errors.REGRESSION)]) == errors.REGRESSION


def _tasks(watchers):
    """The processes of jobs, which are children of those that watch them."""
    argv = ["pgrep", "-P", ",".join(map(str, watchers))]
    return [int(pid) for pid in subprocess.run(argv, capture_output=True).stdout.split()]


def _wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_running_local_job_is_found_by_a_relative_path_too(tmp_path, monkeypatch):
    (tmp_path / "job").mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen([*sleep, "submitit.local._local", str(tmp_path / "job")])
    try:
        monkeypatch.chdir(tmp_path)
        _wait_for(lambda: list(controllers(Path("job"))) == [process.pid])
    finally:
        process.kill()
        process.wait()
