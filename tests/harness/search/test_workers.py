"""Several workers, killed ones, and storages: SQLite in the store, a PostgreSQL server."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest

from harness import errors
from harness.errors import StoreError
from harness.search import storage
from harness.search.samplers import create_pruner
from harness.search.state import SearchState
from harness.search.trial import result_of

ROOT = Path(__file__).resolve().parents[3]
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


@pytest.fixture
def postgres():
    """The URL of a PostgreSQL server for this test, from Debian's package."""
    if not BINARIES:
        pytest.skip("no PostgreSQL: apt install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path may have 107 characters
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if shutil.which("runuser") is None:
            pytest.skip("PostgreSQL does not run as root, and runuser is missing")
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-k {folder} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"

    def control(*argv: str) -> None:
        subprocess.run([*as_user, *argv], check=True, stdout=subprocess.DEVNULL, cwd="/")

    data = str(folder / "data")
    control(str(BINARIES[0] / "initdb"), "-D", data, "-A", "trust", "-U", "searcher")
    server = [str(BINARIES[0] / "pg_ctl"), "-D", data]
    control(*server, "-l", str(folder / "log"), "-o", options, "-w", "start")
    yield f"postgresql://searcher:secret@127.0.0.1:{port}/postgres"
    control(*server, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def wait_for(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


def results(trials):
    """The results of trials that ended, without those whose worker died."""
    ended = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
    return [result_of(trial) for trial in ended]


@pytest.mark.slow
def test_a_killed_search_resumes_without_losing_or_repeating_a_trial(
    harness, start, search_file, store, trainers, trials, slowed
):
    path = search_file(slowed.lines, confirm="null", budget="{trials: 3}")
    for at_work in (1, 3):
        process = start("search", path, "--no-html")
        wait_for(lambda n=at_work: len(store.run_dirs()) > n and trainers())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not trainers())
    slowed.end()
    done = harness("search", path, "--no-html")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    found = results(trials())
    assert len(found) == 3
    completed = [made.plan_id for made in store.records() if made.status == "completed"]
    assert len(completed) == len(set(completed))
    assert "from a killed harness" in done.stderr


@pytest.mark.slow
def test_a_stopped_search_keeps_its_records_and_resumes(
    harness, start, search_file, store, trainers, trials, slowed
):
    path = search_file(slowed.lines, confirm="null", budget="{trials: 2}")
    process = start("search", path, "--no-html")
    wait_for(lambda: len(store.run_dirs()) > 2 and trainers())
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == errors.STOPPED_AT_LIMIT, output
    assert not trainers()
    assert "same command" in output
    slowed.end()
    done = harness("search", path, "--no-html")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert len(results(trials())) == 2


@pytest.mark.slow
def test_a_worker_that_was_taken_for_dead_reuses_its_record_and_continues(
    start, search_file, store, trainers, trials
):
    path = search_file("pace: {sleep_ms: 100}\n", confirm="null", budget="{trials: 3}")
    process = start("search", path, "--no-html")
    wait_for(lambda: len(store.run_dirs()) > 2 and trainers())
    with storage.open_storage(storage.storage_url(store, "quick", None)) as opened:
        study = storage.stored_study(opened, "quick")
        (running,) = [trial for trial in study.get_trials() if trial.state.name == "RUNNING"]
        assert storage.fail_trial(study, running)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == errors.PASS, output
    assert len(results(trials())) == 3
    again = [trial for trial in trials() if trial.user_attrs.get("retry_of") == running.number]
    assert result_of(again[0]).reused


@pytest.mark.slow
def test_two_workers_on_postgresql_share_a_search_that_is_killed_twice(
    harness, start, search_file, store, trainers, trials, postgres
):
    path = search_file(
        "pace: {sleep_ms: 20}\n",
        budget="{trials: 16}",
        tricks="{muon: {off: {optimizer.adamw_lr: {float: [0.001, 0.03], log: true}}}}",
    )
    argv = ("search", path, "--no-html", "--storage", postgres)
    first = start(*argv)
    wait_for(lambda: len(store.records()) >= 3)
    second = start(*argv, "--worker")
    wait_for(lambda: len(results(trials(url=postgres))) >= 4)
    for process in (first, second):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: not trainers())
    second = start(*argv, "--worker")
    done = harness(*argv)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    output, _ = second.communicate(timeout=60)
    assert second.returncode == errors.PASS, output
    assert "secret" not in output + done.stdout + done.stderr
    found = results(trials(url=postgres))
    assert 16 <= len(found) <= 17  # two workers may begin their last trials at once
    pids = {trial.user_attrs["worker"]["pid"] for trial in trials(url=postgres) if result_of(trial)}
    assert len(pids) >= 3
    completed = [made.plan_id for made in store.records() if made.status == "completed"]
    assert len(completed) == len(set(completed))
    assert store.study_names() or "There is nothing to confirm" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("begun", [True, False])
def test_a_trial_whose_worker_sends_no_heartbeat_is_queued_again(tmp_path, begun):
    import optuna

    url = f"sqlite:///{tmp_path / 'silent.sqlite'}"
    with storage.open_storage(url, heartbeat_s=1, grace_s=1) as opened:
        study, _ = storage.create_study(opened, "s", ["minimize"])
        study.sampler = optuna.samplers.RandomSampler(1)
        study.pruner = create_pruner("NopPruner", 1, "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no heartbeats are sent: intended
            silent = study.ask()
        point = {"x": silent.suggest_float("x", 0, 1)}
        if begun:
            opened.record_heartbeat(silent._trial_id)
            silent.set_user_attr(storage.WORKER, {"boot": "another machine's"})
        wait_for(lambda: _fails(study, silent.number))
        waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert [trial.system_attrs["fixed_params"] for trial in waiting] == [point]
    assert waiting[0].user_attrs["retry_of"] == silent.number


def _fails(study, number) -> bool:
    storage.fail_stale_trials(study, grace_s=1)
    return study.get_trials()[number].state.name == "FAIL"


def test_a_storage_that_does_not_answer_is_an_error_without_its_password(harness, search_file):
    url = "postgresql://me:secret@127.0.0.1:1/nowhere"
    done = harness("search", search_file(), "--no-html", "--storage", url)
    assert done.returncode == errors.COULD_NOT_RUN
    assert "me:***@127.0.0.1" in done.stderr
    assert "a storage that answers" in done.stderr
    assert "secret" not in done.stderr


def test_an_invalid_storage_url_is_an_error(harness, search_file):
    done = harness("search", search_file(), "--no-html", "--storage", "runs/some.db")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "a URL such as postgresql://" in done.stderr


def test_a_storage_of_another_optuna_version_is_an_error(tmp_path):
    path = tmp_path / "old.sqlite"
    url = f"sqlite:///{path}"
    with storage.open_storage(url):
        pass
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    with (
        pytest.raises(StoreError, match="of this version of Optuna"),
        storage.open_storage(url),
    ):
        pass


def test_a_search_that_an_older_version_began_is_an_error(harness, search_file, store):
    url = storage.storage_url(store, "quick", None)
    with storage.open_storage(url) as opened:
        study, _ = storage.create_study(opened, "quick", ["minimize"])
        study.set_user_attr("search", {"seed": 1})  # its name for the fingerprint
    for option in ("--no-html", "--report", "--dry-run"):
        done = harness("search", search_file(), option)
        assert done.returncode == errors.COULD_NOT_RUN
        output = " ".join((done.stdout + done.stderr).split())
        assert "one of an older version" in output
        assert "another name under `search:`" in output


def test_a_worker_without_a_search_to_join_is_an_error(harness, search_file):
    done = harness("search", search_file(), "--no-html", "--worker")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "Start the search once without --worker" in done.stderr


def test_a_worker_ends_if_the_base_failed_and_waits_if_the_failure_is_older(harness, search_file):
    argv = ("search", search_file(set="{fail.missing_package: true}"), "--no-html")
    waits = (*argv, "--worker", "--wait-for-base", "5")
    submitted = time.time()
    assert harness(*argv).returncode == errors.COULD_NOT_RUN
    done = harness(*waits, "--since", f"{submitted:.3f}")
    assert done.returncode == errors.COULD_NOT_RUN
    assert "got a base that failed: failed: " in done.stderr
    done = harness(*waits, "--max-minutes", "0.005")  # the base may be running again
    assert done.returncode == errors.STOPPED_AT_LIMIT
    assert "before the base had run" in done.stdout


def test_a_base_that_completes_clears_its_earlier_failure(harness, search_file, store):
    broken = store.root.parent / "broken"
    fails = f"{{fail.missing_package: true, fail.until_file: {broken}}}"
    argv = ("search", search_file(set=fails, budget="{trials: 1}", confirm="null"))
    assert harness(*argv, "--no-html").returncode == errors.COULD_NOT_RUN
    assert _base_failure(store) is not None
    broken.touch()
    done = harness(*argv, "--no-html")
    assert done.returncode == errors.PASS, done.stderr
    assert _base_failure(store) is None


def _base_failure(store):
    with storage.open_storage(storage.storage_url(store, "quick", None)) as opened:
        return SearchState(storage.stored_study(opened, "quick")).base_failure


OPENER = """\
import sys
from harness.search import storage
storage.import_optuna().storages.RDBStorage  # imported before they start
print("ready", flush=True)
sys.stdin.readline()
with storage.open_storage(sys.argv[1]) as opened:
    print(storage.create_study(opened, "s", ["minimize"])[1])
"""


@pytest.mark.slow
def test_commands_that_open_a_new_storage_at_once_share_it_and_one_creates_the_search(tmp_path):
    argv = [sys.executable, "-c", OPENER, f"sqlite:///{tmp_path / 'new.sqlite'}"]
    processes = [
        subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    output = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(output) == ["False", "False", "True"]


def test_the_confirmation_study_stores_no_password(harness, search_file, store):
    url = f"sqlite:///file:{store.root.parent}/own.sqlite?uri=true&password=secret"
    path = search_file(budget="{trials: 3}", base_seeds="[1, 2]")
    done = harness("search", path, "--no-html", "--storage", url)
    assert done.returncode == errors.PASS, done.stderr
    kept = [store.study(name) for name in store.study_names()]
    assert kept
    assert all("password=***" in study.command for study in kept)
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_the_same_command_resumes(
    harness, argv_of, search_file, store, trials
):
    path = search_file(confirm="null", budget="{trials: 2}")
    assert harness("search", path, "--no-html").returncode == errors.PASS
    path.write_text(path.read_text().replace("trials: 2", "trials: 12"))
    argv = " ".join(argv_of("search", path, "--no-html"))
    kilobytes = store.search_path("quick").stat().st_size // 1024
    full = ["bash", "-c", f"ulimit -f {kilobytes}; exec {argv}"]  # no file may grow beyond it
    done = subprocess.run(full, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == errors.COULD_NOT_RUN, done.stdout + done.stderr
    assert "quick.sqlite: expected a storage that answers" in done.stderr
    assert harness("search", path, "--no-html").returncode == errors.PASS
    assert len(results(trials())) == 12
