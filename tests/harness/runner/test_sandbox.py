"""A trainer in a sandbox changes nothing but its own run, whatever it guesses."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.errors import TrainerError
from harness.runner import sandbox
from harness.runner.process import Stop, run_process
from harness.runner.sandbox import Sandbox, check_available, of_side


def works() -> bool:
    try:
        return bool(check_available())
    except TrainerError:
        return False


needs_bwrap = pytest.mark.skipif(not works(), reason="no bubblewrap that may run here")

ATTACK = """
import glob, json, os, socket, subprocess, sys
root, run_dir = sys.argv[1:3]
done = {}
def attempt(name, act):
    try:
        done[name] = act() or True
    except (OSError, IndexError) as error:
        done[name] = type(error).__name__
def write(path):
    open(path, "a").write("BASH_ENV=/evil\\\\n")
for path in sorted(glob.glob(root + "/runner/_work/_temp/_runner_file_commands/*")):
    attempt("guessed", lambda: write(path))
attempt("github_env", lambda: write(root + "/runner/_work/_temp/_runner_file_commands/set_env_1"))
attempt("record", lambda: write(root + "/store/records/a.json"))
attempt("read_store", lambda: os.listdir(root + "/store/records"))
attempt("harness", lambda: write(root + "/checkout/evaluator.py"))
attempt("credentials", lambda: open(root + "/runner/.credentials").read() == "")
attempt("network", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[3])), 2))
attempt("kill", lambda: os.kill(int(sys.argv[4]), 0))
attempt("environ", lambda: open(f"/proc/{sys.argv[4]}/environ").read())
attempt("own_run", lambda: write(run_dir + "/result.txt"))
attempt("cache", lambda: write(".cache/kernel"))
done["fd"] = os.fstat(int(sys.argv[sys.argv.index("--watch-fd") + 1])).st_size == 0
json.dump(done, open(run_dir + "/done.json", "w"), default=str)
sys.exit(7)
"""


@pytest.fixture
def place(monkeypatch):
    """A runner in the middle of a step, a store, and a checkout of the candidate.

    Not under /tmp, which a sandbox hides anyway.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="harness-") as folder:
        yield _laid_out(Path(folder), monkeypatch)


def _laid_out(tmp_path, monkeypatch):
    for folder in ("runner/_work/_temp/_runner_file_commands", "store/records", "checkout"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runner/_work/_temp/_runner_file_commands/set_env_1").write_text("")
    (tmp_path / "runner/.credentials").write_text("secret")
    (tmp_path / "store/records/a.json").write_text("{}")
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path / "runner/_work/_temp"))
    return tmp_path


@needs_bwrap
def test_a_candidate_reaches_its_run_directory_and_nothing_else(place):
    run_dir, checkout = place / "store/plans/p/a1", place / "checkout"
    run_dir.mkdir(parents=True)
    box = of_side(place / "store", "candidate", checkout)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        argv = [sys.executable, "-c", ATTACK, str(place), str(run_dir), str(port), str(os.getpid())]
        ended = run_process(
            command=box.command(argv, checkout, writable=[run_dir]),
            run_dir=run_dir,
            checkout=checkout,
            timeout_s=30,
            stop=Stop(),
        )
    assert ended.returncode == 7, (run_dir / "log.txt").read_text()
    done = json.loads((run_dir / "done.json").read_text())
    assert {name for name, result in done.items() if result is True} == {
        "own_run", "cache", "fd",
    }  # fmt: skip
    assert done["credentials"] == "PermissionError"
    commands = place / "runner/_work/_temp/_runner_file_commands/set_env_1"
    assert commands.read_text() == ""
    assert (place / "store/records/a.json").read_text() == "{}"
    assert (run_dir / "result.txt").exists()
    assert (place / "store/caches/candidate/checkout/kernel").exists()
    assert list((checkout / ".cache").iterdir()) == []


@needs_bwrap
def test_a_trainer_that_is_ended_leaves_no_process(place):
    run_dir = place / "store/plans/p/a1"
    run_dir.mkdir(parents=True)
    mark = "987.654"
    box = of_side(place / "store", "candidate", place / "checkout")
    code = f"import subprocess; subprocess.run(['setsid', 'sleep', '{mark}'])"
    ended = run_process(
        command=box.command([sys.executable, "-c", code], place / "checkout", writable=[run_dir]),
        run_dir=run_dir,
        checkout=place / "checkout",
        timeout_s=0.7,
        stop=Stop(),
        grace_s=0.2,
    )
    assert ended.cause == "time-out"
    assert subprocess.run(["pgrep", "-f", f"sleep {mark}"], capture_output=True).stdout == b""


def test_only_the_preparation_of_data_has_a_network(tmp_path):
    box = Sandbox(cache=tmp_path / "cache")
    assert "--unshare-net" in box.command(["python"], tmp_path)
    assert "--unshare-net" not in box.command(["python"], tmp_path, network=True)


def test_base_and_candidate_share_no_cache(place, monkeypatch):
    monkeypatch.setattr(sandbox, "check_available", lambda: "x")
    sides = [of_side(place / "store", role, place / "checkout") for role in ("base", "candidate")]
    assert sides[0].cache != sides[1].cache


def test_a_machine_without_bubblewrap_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TrainerError, match="apt install bubblewrap"):
        check_available()
