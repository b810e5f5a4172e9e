"""What a trainer's process inherits: the machine and its data, never the job that runs it."""

import json
import os
import sys

import pytest

from harness import files
from harness.errors import UsageError
from harness.runner.process import Stop, run_process
from harness.runner.replies import Request
from harness.runner.stepper import StepperProcess, wait_for_replies
from harness.runner.trainer import NativeTrainer
from harness.runner.variables import FILE, listed_patterns, trainer_environment

FROM_A_JOB = {
    "GITHUB_ENV": "/job/env", "GITHUB_PATH": "/job/path", "GITHUB_OUTPUT": "/job/output",
    "GITHUB_STEP_SUMMARY": "/job/summary", "GITHUB_TOKEN": "t", "ACTIONS_RUNTIME_TOKEN": "t",
    "ACTIONS_ID_TOKEN_REQUEST_URL": "u", "RUNNER_TEMP": "/job", "RUNNER_TRACKING_ID": "0",
    "GH_TOKEN": "t", "HF_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "t", "SLURM_JWT": "t", "CI": "true",
    "BASH_ENV": "/evil", "ENV": "/evil", "PYTHONSTARTUP": "/evil", "LD_PRELOAD": "/evil.so",
    "CUDA_API_TOKEN": "t", "SSH_AUTH_SOCK": "/s", "DOCKER_HOST": "d",
}  # fmt: skip
OF_THE_MACHINE = {
    "PATH": "/bin", "HOME": "/root", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "3", "NCCL_IB": "1",
    "SLURM_JOB_ID": "7", "TORCHINDUCTOR_CACHE_DIR": "/c", "TRITON_CACHE_DIR": "/t", "HF_HOME": "/h",
    "OMP_NUM_THREADS": "4", "TMPDIR": "/tmp", "http_proxy": "p", "LD_LIBRARY_PATH": "/cuda",
}  # fmt: skip
PRINT = "import json, os; json.dump(dict(os.environ), open('seen.json', 'w'))"


@pytest.fixture(autouse=True)
def job(monkeypatch, tmp_path):
    """A step of a GitHub job in an empty folder, with its four files."""
    monkeypatch.chdir(tmp_path)
    for name, value in FROM_A_JOB.items():
        monkeypatch.setenv(name, value)
    paths = {name: tmp_path / name for name in FROM_A_JOB if value_is_file(name)}
    for name, path in paths.items():
        path.write_text("")
        monkeypatch.setenv(name, str(path))
    return paths


def value_is_file(name: str) -> bool:
    return name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")


def test_variables_of_the_machine_pass_and_those_of_the_job_do_not():
    passed = trainer_environment({"PET_X": "1"}, source={**FROM_A_JOB, **OF_THE_MACHINE})
    assert passed == {**OF_THE_MACHINE, "PET_X": "1"}


def test_a_reviewed_file_adds_variables(tmp_path):
    (tmp_path / "ci").mkdir()
    (tmp_path / FILE).write_text("# data of this site\nMY_DATA_*\nHF_TOKEN # gated data\nWANDB_*\n")
    source = {"MY_DATA_ROOT": "/d", "HF_TOKEN": "t", "MY": "x", "WANDB_API_KEY": "k"}
    assert trainer_environment(source=source) == {"MY_DATA_ROOT": "/d", "HF_TOKEN": "t"}


@pytest.mark.parametrize("line", ["A=1", "*", "A B", "-", "A*B", "é"])
def test_a_line_that_is_no_name_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"FIRST\n{line}\n")
    with pytest.raises(UsageError, match=r"list\.txt, line 2"):
        listed_patterns(path)


ATTACK = """
import os
for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
    if name in os.environ:
        open(os.environ[name], "a").write("BASH_ENV=/evil")
"""


def test_a_candidate_that_writes_to_the_files_of_a_step_finds_none(tmp_path, job):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    ended = run_process(
        command=[sys.executable, "-c", ATTACK + PRINT, "x"],
        run_dir=run_dir,
        checkout=tmp_path,
        timeout_s=30,
        stop=Stop(),
        environment={"CUDA_VISIBLE_DEVICES": "1"},
    )
    assert ended.returncode == 0, (run_dir / "log.txt").read_text()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert FROM_A_JOB.keys().isdisjoint(seen)
    assert seen["CUDA_VISIBLE_DEVICES"] == "1"
    assert [path.read_text() for path in job.values()] == [""] * 4


class Spy(NativeTrainer):
    package = "spy"


@pytest.fixture
def spying(tmp_path):
    """A checkout whose trainer notes its environment before it replies."""
    package = tmp_path / "spy"
    package.mkdir()
    note = f"import json, os, sys\n{PRINT}\n"
    (package / "describe.py").write_text(f"{note}print('[]')\n")
    (package / "data.py").write_text(f"{note}print(json.dumps(dict(data_id='d')))\n")
    reply = "json.dumps(dict(event='ready', step_s=1.0, batch_tokens=1))"
    ready = f"{note}print({reply}, flush=True)\nsys.stdin.readline()\n"
    (package / "pace.py").write_text(ready)
    return Spy(tmp_path)


def test_progress_of_a_preparation_reaches_the_log_without_commands(spying, tmp_path, capfd):
    data = tmp_path / "spy" / "data.py"
    noise = "print('3 shards\\n ::stop-commands::x\\ra ##[add-path]/tmp', file=sys.stderr)\n"
    data.write_text(f"import sys\n{noise}{data.read_text()}")
    assert spying.prepare({}) == "d"
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["3 shards", " : :stop-commands: :x", "a ## [add-path]/tmp"]


@pytest.mark.parametrize("verb", ["describe", "prepare", "pace"])
def test_every_verb_gets_the_allowed_variables_only(spying, tmp_path, verb):
    if verb == "describe":
        assert spying.describe(list[Request]()) == []
    elif verb == "prepare":
        assert spying.prepare({}) == "d"
    else:
        files.write_json(tmp_path / "config.json", {})
        command = spying.pace_command(tmp_path / "config.json", tmp_path / "p")
        stepper = StepperProcess("B", command, tmp_path, tmp_path / "p")
        wait_for_replies([stepper], 30, Stop())
        stepper.kill()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert FROM_A_JOB.keys().isdisjoint(seen)
    assert "PATH" in seen


def test_a_list_that_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "names.txt")
    with pytest.raises(UsageError, match=r"names\.txt: expected a text file"):
        listed_patterns(tmp_path / "names.txt")


def test_a_name_that_is_allowed_in_full_is_no_secret():
    source = {"TIKTOKEN_CACHE_DIR": "/t", "TORCH_TOKEN": "t"}
    assert trainer_environment(source=source) == {"TIKTOKEN_CACHE_DIR": "/t"}
