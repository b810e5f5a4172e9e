"""A trainer on several nodes: its command line and the bridge of its watch descriptor."""

import os
import signal
import subprocess
import sys
import time

import pytest

from harness.errors import ClusterError
from harness.runner import stdin_bridge
from harness.runner.multinode import multinode_command

INSIDE = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "64"}
LISTENER = """\
import os, sys
assert sys.argv[-2:] == ["--watch-fd", "0"], sys.argv
open(sys.argv[1], "w").write("ready")
while os.read(0, 100): pass
open(sys.argv[1], "w").write("left")
"""


def test_every_node_runs_one_torchrun_with_the_same_rendezvous():
    command = multinode_command(
        ["model.train", "--out", "x"], 2, 8, python="py", environment=INSIDE
    )
    srun, torchrun = command.index("srun"), command.index("torch.distributed.run")
    assert command[srun:torchrun] == [
        *("srun", "--nodes", "2", "--ntasks", "2", "--ntasks-per-node", "1"),
        *("--kill-on-bad-exit=1", "--unbuffered", "--cpus-per-task", "64", "py", "-m"),
    ]
    options = dict(zip(command[torchrun + 1 : -4 : 2], command[torchrun + 2 : -4 : 2], strict=True))
    assert (options["--nnodes"], options["--nproc-per-node"]) == ("2", "8")
    assert options["--rdzv-id"] == f"7-{options['--rdzv-endpoint'].rpartition(':')[2]}"
    assert command[-4:] == ["-m", "model.train", "--out", "x"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "got no allocation"),
        ({**INSIDE, "SLURM_JOB_NUM_NODES": "1"}, "got one of 1"),
        ({**INSIDE, "SLURM_NODEID": "1"}, "once, not once per node"),
    ],
)
def test_missing_nodes_are_rejected_with_a_hint(environment, message):
    with pytest.raises(ClusterError, match=message):
        multinode_command(["model.train"], 2, 8, python="py", environment=environment)


def test_the_watch_descriptor_is_replaced_by_the_standard_input():
    command = ["srun", "x", "--watch-fd", "9"]
    assert stdin_bridge.split(command, forwards=False) == (["srun", "x", "--watch-fd", "0"], 9)
    assert stdin_bridge.split(command, forwards=True) == (["srun", "x"], 9)
    assert stdin_bridge.split(["srun", "x"], forwards=False) == (["srun", "x"], None)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "end of file"])
def test_the_trainers_leave_whatever_ends_the_bridge(tmp_path, end):
    output = tmp_path / "output"
    command = [
        sys.executable,
        "-I",
        stdin_bridge.__file__,
        sys.executable,
        "-c",
        LISTENER,
        str(output),
    ]
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*command, "--watch-fd", str(reading)],
        stdin=subprocess.DEVNULL,
        pass_fds=(reading,),
        start_new_session=True,
    )
    os.close(reading)
    _wait_for(output, "ready")
    if end == "end of file":
        os.close(writing)
    else:
        os.killpg(process.pid, signal.Signals[end])
    _wait_for(output, "left")
    assert process.wait(10) == (-signal.SIGKILL if end == "SIGKILL" else 0)
    if end != "end of file":
        os.close(writing)


@pytest.mark.parametrize("end", ["of requests", "of the harness"])
def test_requests_are_forwarded_until_their_end(end):
    code = "import sys; assert '--watch-fd' not in sys.argv; [print(w, end='') for w in sys.stdin]"
    reading, writing = os.pipe()
    command = [sys.executable, "-I", stdin_bridge.__file__, sys.executable, "-uc", code]
    process = subprocess.Popen(
        [*command, "--watch-fd", str(reading)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(reading,),
    )
    os.close(reading)
    process.stdin.write(b"go 3\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"go 3\n"
    if end == "of requests":
        process.stdin.close()
    else:
        os.close(writing)
    assert process.wait(20) == 0
    process.stdin.close()
    process.stdout.close()
    if end == "of requests":
        os.close(writing)


def _wait_for(path, text):
    deadline = time.monotonic() + 20
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
