"""Jobs of a real Slurm: to their end, through a time limit, cancelled, as workers, on two nodes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import errors
from harness.cli.slurm.status import OVER
from harness.cli.slurm.submission import FOLDER, log_path, submissions
from harness.results.record import Record

pytestmark = pytest.mark.slow
SLURM = {"kind": "slurm", "shared_store": "true", "cpus_per_task": 2}
TRAINER = """\
import argparse, os, sys, threading, time
from pathlib import Path
import torch.distributed as dist, torch
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path)
parser.add_argument("--seconds", type=float)
parser.add_argument("--watch-fd", type=int)
options = parser.parse_args()
ended = threading.Event()
def watch():
    while os.read(options.watch_fd, 4096): pass
    ended.set()
threading.Thread(target=watch, daemon=True).start()
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank())])
dist.all_reduce(total)
mine = options.out / f"{dist.get_rank()}"
mine.with_suffix(".met").write_text(f"{os.environ['SLURMD_NODENAME']} {total.item():g}")
if ended.wait(options.seconds):
    mine.with_suffix(".ended").write_text("")
else:
    dist.barrier()
"""
STARTER = """\
import os, signal, subprocess, sys, time
from pathlib import Path
from harness.runner.multinode import multinode_command
out, end = Path(sys.argv[1]), sys.argv[2]
argv = ["toy_trainer", "--out", str(out), "--seconds", "1" if end == "itself" else "60"]
reading, writing = os.pipe()
process = subprocess.Popen(
    [*multinode_command(argv, 2, 1, python=sys.executable), "--watch-fd", str(reading)],
    pass_fds=(reading,), start_new_session=True, stdin=subprocess.DEVNULL,
)
while end != "itself" and len(list(out.glob("*.met"))) < 2 and process.poll() is None:
    time.sleep(0.1)
if end == "harness gone":
    os.close(writing)
elif end != "itself":
    os.killpg(process.pid, signal.Signals[end])
process.wait()
while ".0" in subprocess.run(["squeue", "-s", "-h"], capture_output=True, text=True).stdout:
    time.sleep(0.1)
"""
TALKER = """\
import sys
import torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == 0:
    for word in sys.stdin:
        print("received", word, end="", flush=True)
dist.barrier()
"""
SPEAKER = """\
import subprocess, sys
from harness.runner.multinode import multinode_command
process = subprocess.Popen(
    multinode_command(["toy_talker"], 2, 1, python=sys.executable),
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True,
)
for word in ("go 1", "same 2"):
    print(word, file=process.stdin)
    print(process.stdout.readline().strip())
process.stdin.close()
print("ended with", process.wait())
"""


@pytest.fixture
def on_slurm(submit, slurm):
    """`harness submit` where that Slurm is."""
    return lambda *argv: submit(*argv, **slurm)


@pytest.fixture
def on_two_nodes(tmp_path, slurm):
    """Runs a script as a job of two nodes to its end; returns its output."""
    pytest.importorskip("torch")

    def run(script: str, arguments: str = "") -> str:
        (tmp_path / "starter.py").write_text(script)
        root = Path(__file__).resolve().parents[4]
        resources = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--time=5"]
        line = f"exec {sys.executable} -u {tmp_path}/starter.py {arguments}"
        more = {**slurm, "PYTHONPATH": f"{root}:{tmp_path}", "OMP_NUM_THREADS": "1"}
        options = ("--parsable", *resources, f"--output={tmp_path}/log", "--wrap", line)
        number = run_in_slurm(more, "sbatch", *options).strip()
        wait_for(lambda: state_in_slurm(number, slurm) in OVER)
        return (tmp_path / "log").read_text()

    return run


@pytest.fixture
def only_job(store):
    """The number of the only job of the store."""

    def read() -> str:
        ((_, made),) = submissions(store.root)
        (number,) = made.jobs
        return number

    return read


def test_a_study_goes_through_slurm_to_its_end(
    on_slurm, study_file, cluster_file, store, events, only_job, slurm
):
    path = cluster_file(**SLURM, setup="[export FROM_SETUP=1]")
    done = on_slurm("--wait", path, "--", "study", study_file(), "--no-html")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert len(completed(store)) == 6
    assert [event.event for event in events()] == ["started", "ended"]
    assert state_in_slurm(only_job(), slurm) == "COMPLETED"
    assert f"{only_job()} " in on_slurm("--jobs").stdout


def test_slurm_and_the_table_have_the_exit_code_of_the_command(
    on_slurm, study_file, cluster_file, only_job, slurm
):
    path = study_file(base="base: [nonsense]\n")
    done = on_slurm("--wait", cluster_file(**SLURM), "--", "study", path)
    assert done.returncode == errors.USAGE, done.stdout + done.stderr
    assert state_in_slurm(only_job(), slurm) == "FAILED"
    shown = subprocess.run(
        ["scontrol", "show", "job", only_job()], env={**os.environ, **slurm}, capture_output=True
    )
    assert f"ExitCode={errors.USAGE}:0" in shown.stdout.decode()


def test_a_refusal_of_slurm_is_printed_and_leaves_nothing(
    on_slurm, study_file, cluster_file, store
):
    path = cluster_file(**SLURM, partition="nowhere")
    done = on_slurm(path, "--", "study", study_file())
    assert done.returncode == errors.COULD_NOT_RUN
    assert "invalid partition" in done.stderr.lower()
    assert on_slurm("--jobs").stdout.startswith("No job")
    assert not list((store.root / FOLDER).iterdir())


def test_the_signal_before_the_time_limit_stops_a_run_that_is_then_requeued(
    on_slurm, study_file, cluster_file, store, events, only_job, slurm
):
    """A minute is Slurm's shortest limit, and the signal may come that much before it is due."""
    base = study_file("pace: {sleep_ms: 1000}\n").parent / "base.yaml"
    path = cluster_file(**SLURM, minutes=1, signal_seconds_before_end=50)
    argv = ("run", base, "--trainer", "fake", "--set", "dial.steps=60")
    assert on_slurm(path, "--", *argv).returncode == 0
    wait_for(lambda: any(event.requeued for event in events()))
    assert [event.event for event in events()][:3] == ["started", "stop_requested", "ended"]
    assert events()[1].reason == "the time limit is near"
    assert [made.status for made in store.records()] == ["interrupted"]
    wait_for(lambda: len(events()) > 3)
    on_slurm("--cancel", only_job())
    wait_for(lambda: state_in_slurm(only_job(), slurm) == "CANCELLED")


def test_a_study_that_slurm_stops_is_requeued_and_repeats_no_run(
    on_slurm, study_file, cluster_file, store, events, only_job, slurm
):
    path = study_file("pace: {sleep_ms: 40}\n")
    assert on_slurm(cluster_file(**SLURM), "--", "study", path, "--no-html").returncode == 0
    wait_for(lambda: len(store.run_dirs()) > 1)
    run_in_slurm(slurm, "scancel", "--batch", "--signal=USR2", only_job())
    wait_for(lambda: events()[-1].event == "ended" and events()[-1].exit_code == errors.PASS)
    assert [event.requeued for event in events() if event.event == "ended"] == [True, False]
    assert len(completed(store)) == len({made.plan_id for made in completed(store)}) == 6
    assert [made.status for made in store.records()].count("interrupted") == 1


@pytest.mark.parametrize("by", ["harness", "scancel"])
def test_a_cancelled_job_records_what_it_had_and_stays_cancelled(
    on_slurm, study_file, cluster_file, store, events, only_job, slurm, trainers, by
):
    path = study_file("pace: {sleep_ms: 40}\n")
    on_slurm(cluster_file(**SLURM), "--", "study", path, "--no-html")
    wait_for(lambda: len(store.run_dirs()) > 1 and trainers())
    if by == "harness":
        assert only_job() in on_slurm("--cancel", only_job()).stdout
    else:
        run_in_slurm(slurm, "scancel", only_job())
    wait_for(lambda: events()[-1].event == "ended")
    wait_for(lambda: state_in_slurm(only_job(), slurm) == "CANCELLED")
    assert (events()[-1].exit_code, events()[-1].requeued) == (errors.STOPPED_AT_LIMIT, False)
    assert not trainers()
    assert "interrupted" in [made.status for made in store.records()]


def test_a_job_on_a_lost_node_is_restarted_by_slurm(
    on_slurm, study_file, cluster_file, store, events, only_job, slurm
):
    path = study_file("pace: {sleep_ms: 40}\n")
    on_slurm(cluster_file(**SLURM), "--", "study", path, "--no-html")
    wait_for(lambda: len(store.run_dirs()) > 1)
    query = ("squeue", "--noheader", "--jobs", only_job(), "--format", "%N")
    node = run_in_slurm(slurm, *query).strip()
    run_in_slurm(slurm, "scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=vanished")
    wait_for(lambda: events()[-1].exit_code == errors.PASS)  # the node came back by itself
    assert len(completed(store)) == len({made.plan_id for made in completed(store)}) == 6


def test_an_array_of_workers_shares_a_search(
    on_slurm, tmp_path, study_file, cluster_file, store, slurm
):
    pytest.importorskip("optuna")
    study_file("bowl: {curvature: 0.1}\npace: {sleep_ms: 30}\n")
    search = tmp_path / "search.yaml"
    search.write_text(
        "search: quick\ntrainer: fake\nbase: base.yaml\nspace: {bowl.x: {float: [-1, 1]}}\n"
        "budget: {trials: 6}\nbase_seeds: [1, 2]\npruner: NopPruner\nconfirm: null\n"
    )
    done = on_slurm(*("--wait", cluster_file(**SLURM, jobs=2), "--", "search", search, "--no-html"))
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    ((folder, made),) = submissions(store.root)
    logs = [log_path(folder, number).read_text() for number in made.jobs]
    assert [log.count("--worker") for log in logs] == [0, 1]
    assert all("trial " in log for log in logs), logs
    made_once = {one.plan_id for one in completed(store)}
    assert len(completed(store)) == len(made_once) == 7  # trial 0 is the base at its first seed


@pytest.mark.parametrize("end", ["itself", "SIGTERM", "SIGKILL", "harness gone"])
def test_the_ranks_on_two_nodes_meet_and_all_learn_of_every_end(tmp_path, on_two_nodes, end):
    (tmp_path / "toy_trainer.py").write_text(TRAINER)
    (tmp_path / "out").mkdir()
    log = on_two_nodes(STARTER, f"{tmp_path}/out '{end}'")
    met = {path.read_text() for path in (tmp_path / "out").glob("*.met")}
    assert met == {"n1 1", "n2 1"}, log  # ranks 0 and 1, summed, on both
    ended = len(list((tmp_path / "out").glob("*.ended")))
    assert ended == (0 if end == "itself" else 2), log


def test_a_trainer_on_two_nodes_receives_its_standard_input_line_by_line(tmp_path, on_two_nodes):
    (tmp_path / "toy_talker.py").write_text(TALKER)
    log = on_two_nodes(SPEAKER)
    lines = [line for line in log.splitlines() if line.startswith(("received", "ended"))]
    assert lines == ["received go 1", "received same 2", "ended with 0"], log


def completed(store) -> list[Record]:
    return [made for made in store.records() if made.status == "completed"]


def state_in_slurm(number: str, slurm: dict[str, str]) -> str:
    return run_in_slurm(slurm, "squeue", "-h", "--states=all", "-j", number, "--format=%T").strip()


def run_in_slurm(slurm: dict[str, str], *argv: str) -> str:
    done = subprocess.run(argv, env={**os.environ, **slurm}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
