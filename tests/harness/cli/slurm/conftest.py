"""Cluster files, submissions as users make them, and a real Slurm where it is installed.

The Slurm is one of two nodes, both of them this machine, on private ports and in private folders.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness.cli.slurm.submission import EventLog, JobEvent, submissions

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def cluster_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a cluster file and returns its path."""

    def write(**values: object) -> Path:
        lines = {"kind": "local", "minutes": 5, "signal_seconds_before_end": 30, **values}
        path = tmp_path / "cluster.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        return path

    return write


@pytest.fixture
def submit(store, tmp_path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`harness submit` on the store, as a process of its own."""

    def call(*argv: object, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "harness", "submit", "--store", str(store.root)]
        # into files: a local job outlives the command, and would hold a pipe open
        places = [tmp_path / "submit.out", tmp_path / "submit.err"]
        with open(places[0], "w") as out, open(places[1], "w") as err:
            done = subprocess.run(
                [*command, *map(str, argv)],
                cwd=ROOT,
                env={**os.environ, **more},
                stdout=out,
                stderr=err,
                timeout=300,
            )
        output = [place.read_text() for place in places]
        return subprocess.CompletedProcess(done.args, done.returncode, *output)

    return call


@pytest.fixture
def events(store) -> Callable[[], list[JobEvent]]:
    """The events of the only job of the store."""

    def read() -> list[JobEvent]:
        ((folder, made),) = submissions(store.root)
        (number,) = made.jobs
        return EventLog(folder, number).events()

    return read


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables of a Slurm of two nodes."""
    if why := no_slurm():
        pytest.skip(f"no real Slurm: {why}")
    with started_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


# --- the Slurm ------------------------------------------------------------------------------------

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
NODES = ("n1", "n2")
READY_S = 20.0
CONFIG = """\
ClusterName=trial
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
JobRequeue=1
KillWait=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname=localhost Port={n1} CPUs=4 RealMemory=4000
NodeName=n2 NodeHostname=localhost Port={n2} CPUs=4 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def no_slurm() -> str:
    """Why no Slurm can be started here; empty where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt install slurm-wlm"
    return "" if os.geteuid() == 0 else "slurmd starts jobs of other users, so it must run as root"


@contextmanager
def started_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Starts it, waits until both nodes are idle, yields its variables, and stops it."""
    ports = dict(zip(("controller", *NODES), _free_ports(1 + len(NODES)), strict=True))
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, **ports))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    with ExitStack() as running:

        def start(*argv: str) -> None:
            with open(folder / "daemons.log", "ab") as log:
                process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
            running.callback(_end, process)

        _munged(folder, start)
        start("slurmctld", "-D", "-c")
        for node in NODES:
            start("slurmd", "-D", "-N", node)
        _wait_until_idle(environment, folder)
        running.callback(subprocess.run, ["scancel", "--me"], env=environment, check=False)
        yield {"SLURM_CONF": str(config)}


def _munged(folder, start) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    places = {"socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={folder}/munge.{suffix}" for name, suffix in places.items()]
    start("munged", "--foreground", "--force", f"--key-file={key}", *options)


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + READY_S
    query = ["sinfo", "--noheader", "--Node", "--format=%t"]
    while time.monotonic() < deadline:
        done = subprocess.run(query, env=environment, capture_output=True, text=True)
        if done.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.1)
    logs = {path.name: path.read_text()[-2000:] for path in folder.glob("*.log")}
    raise AssertionError(f"Slurm did not come up in {READY_S:g} s: {done} {logs}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
