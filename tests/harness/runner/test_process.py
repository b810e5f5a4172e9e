"""How a trainer process is watched and ended."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import files
from harness.files import lock_file
from harness.results.record import ProcessEnd, outcome_of
from harness.results.run_files import EventTail, Progress
from harness.runner import process as run
from harness.runner.process import Stop, holders, run_process, start_ticks
from tests.fixtures.faulty_harness import FaultyTrainer

TRAINER = FaultyTrainer()


def start(
    folder: Path,
    timeout_s: float = 30.0,
    stop: Stop | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **overrides: object,
):
    """Runs the simulated trainer with some overrides of its configuration."""
    folder.mkdir(exist_ok=True)
    write_config(folder, **overrides)
    return run_process(
        command=TRAINER.train_command(folder / "config.json", folder),
        run_dir=folder,
        checkout=TRAINER.checkout,
        timeout_s=timeout_s,
        stop=stop or Stop(),
        on_progress=on_progress,
    )


def write_config(folder: Path, **overrides: object) -> None:
    """Writes config.json; `fail__x=1` sets fail.x."""
    config: dict[str, dict[str, object]] = {"dial": {"steps": 20}}
    for name, value in overrides.items():
        section, _, field = name.partition("__")
        config.setdefault(section, {})[field] = value
    files.write_json(folder / "config.json", config)


def test_a_completed_run_leaves_the_files_of_the_contract(tmp_path):
    ended = start(tmp_path / "run")
    assert (ended.returncode, ended.cause) == (0, None)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {"config.json", "environment.json", "events.jsonl", "result.json", "log.txt"}
    assert left >= {"process.json", "lock"}


def test_a_run_that_hangs_is_ended_at_its_time_limit(tmp_path):
    ended = start(tmp_path / "run", timeout_s=0.5, fail__hang_at_step=3)
    assert ended.cause == "time-out"
    assert files.read_json(tmp_path / "run" / "result.json")["status"] == "interrupted"


def test_progress_of_a_silent_run_has_the_time_since_its_last_event(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "QUIET_S", 0.2)
    reports: list[tuple[int, float]] = []
    start(
        tmp_path / "run",
        timeout_s=2.0,
        on_progress=lambda latest: reports.append((latest.step, latest.silent_s)),
        fail__hang_at_step=3,
    )
    silent = [seconds for step, seconds in reports if step == 2 and seconds > 0]
    assert len(silent) >= 2
    assert silent == sorted(silent)


def test_a_run_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "GRACE_S", 0.3)
    ended = start(tmp_path / "run", timeout_s=0.5, fail__hang_at_step=3, fail__ignore_sigterm=True)
    assert ended.cause == "time-out"
    assert ended.returncode == -9
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_crash_has_an_exit_code_and_a_traceback_in_the_log(tmp_path):
    ended = start(tmp_path / "run", fail__crash_at_step=3, fail__half_line=True)
    assert ended.returncode == 1
    assert "crashed at step 3" in (tmp_path / "run" / "log.txt").read_text()


def test_a_stop_ends_a_run(tmp_path):
    stop = Stop()
    stop.request()
    ended = start(tmp_path / "run", stop=stop, fail__hang_at_step=3)
    assert ended.cause == "stopped"


@pytest.mark.parametrize(("stops", "cause"), [(True, "stopped"), (False, None)])
def test_a_signal_to_the_job_that_reaches_the_trainer_first_is_a_stop(tmp_path, stops, cause):
    stop = Stop()
    later = threading.Timer(0.3, stop.request)
    if stops:
        later.start()
    ended = run_process(
        command=[sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"],
        run_dir=tmp_path,
        checkout=tmp_path,
        timeout_s=30,
        stop=stop,
    )
    later.cancel()
    assert (ended.returncode, ended.cause) == (-15, cause)


def test_helpers_of_a_trainer_do_not_outlive_it(tmp_path):
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True)"
    ended = run_process(
        command=[sys.executable, "-c", code],
        run_dir=tmp_path,
        checkout=tmp_path,
        timeout_s=20,
        stop=Stop(),
    )
    assert ended.returncode == 0
    pid = int((tmp_path / "log.txt").read_text())
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def test_a_rank_in_a_session_of_its_own_does_not_outlive_its_trainer(tmp_path):
    rank = "subprocess.Popen(['sleep', '60'], start_new_session=True)"  # as torchrun starts them
    code = f"import subprocess; print({rank}.pid, flush=True)"
    with open(tmp_path / "log.txt", "a") as log:
        log.write("")
    with open(tmp_path / "log.txt") as log:  # only writers of the log belong to the run
        reader = subprocess.Popen(["sleep", "60"], stdin=log)
    run_process(
        command=[sys.executable, "-c", code],
        run_dir=tmp_path,
        checkout=tmp_path,
        timeout_s=20,
        stop=Stop(),
    )
    pid = int((tmp_path / "log.txt").read_text())
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    reads_on = reader.poll() is None
    reader.kill()
    reader.wait()
    assert (_runs(pid), reads_on) == (False, True)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_trainer_leaves_when_its_harness_is_gone(tmp_path):
    write_config(tmp_path, fail__hang_at_step=3)
    reading, writing = os.pipe()
    command = TRAINER.train_command(tmp_path / "config.json", tmp_path)
    process = subprocess.Popen(
        [*command, "--watch-fd", str(reading)], cwd=TRAINER.checkout, pass_fds=(reading,)
    )
    os.close(reading)
    os.close(writing)
    assert process.wait(timeout=20) == 3
    assert files.read_json(tmp_path / "result.json")["reason"] == "the harness is gone"


def test_a_lock_is_held_as_long_as_its_file_is_open(tmp_path):
    first = lock_file(tmp_path / "lock")
    assert lock_file(tmp_path / "lock") is None
    assert os.getpid() in holders(tmp_path / "lock")
    first.close()
    second = lock_file(tmp_path / "lock")
    assert second is not None
    second.close()


def test_start_ticks_distinguish_a_process_from_a_later_one():
    mine = start_ticks(os.getpid())
    child = subprocess.Popen(["sleep", "5"])
    try:
        assert mine is not None
        assert start_ticks(child.pid) > mine
    finally:
        child.kill()
        child.wait()
    assert start_ticks(child.pid) is None


def test_the_tail_of_events_reads_complete_lines_only(tmp_path):
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert not tail.read()
    path.write_text('{"event":"step","step":1,"tokens":5,"loss":2.0,"step_s":0.1}\n{"event":"st')
    assert tail.read()
    assert tail.progress.step == 1
    with open(path, "a") as handle:
        handle.write('ep","step":2,"tokens":10,"loss":1.0,"step_s":0.1}\nnot json\n')
    assert tail.read()
    assert (tail.progress.step, tail.progress.loss) == (2, 1.0)


@pytest.mark.parametrize(
    ("returncode", "cause", "part"),
    [(0, "time-out", "limit"), (0, "stopped", "stopped"), (-15, None, "SIGTERM"), (7, None, "7")],
)
def test_the_description_of_an_end_has_its_cause(returncode, cause, part):
    ended = ProcessEnd(returncode=returncode, cause=cause, ended_at=0, trainer_s=0, limit_s=60)
    assert part in ended.describe()


def test_a_tail_follows_a_resumed_run_into_its_new_file(tmp_path):
    path, other = tmp_path / "events.jsonl", tmp_path / "other"
    line = '{{"event": "step", "step": {0}, "tokens": {0}, "loss": {0}.5}}\n'
    path.write_text("".join(line.format(step) for step in (1, 2, 3)))
    tail = EventTail(path)
    assert tail.read()
    other.write_text(line.format(1) + line.format(2))  # it resumed after step 1
    other.rename(path)
    assert tail.read()
    assert tail.progress.losses == [(1, 1.5), (2, 2.5)]


LEAVING_HELPER = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 1024)
        time.sleep(60)
    os._exit(0)
os.wait()
"""


def test_a_helper_that_left_its_group_and_log_is_ended_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SETTLE_S", 0.05)
    ended = run_process(
        command=[sys.executable, "-c", LEAVING_HELPER],
        run_dir=tmp_path,
        checkout=tmp_path,
        timeout_s=20,
        stop=Stop(),
    )
    (helper,) = ended.outlived_by
    assert "time.sleep(60)" in helper or "python" in helper
    deadline = time.monotonic() + 10
    while run.marked(tmp_path):  # what was killed may need a moment to be gone
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "outlived it and were ended" in outcome_of(tmp_path, ended).reason


def test_a_link_has_no_holders(tmp_path):
    with open(tmp_path / "open", "w"):
        (tmp_path / "log.txt").symlink_to(tmp_path / "open")
        assert os.getpid() in holders(tmp_path / "open")
        assert holders(tmp_path / "log.txt") == []
