"""A real Slurm of one's own: two nodes, both of them this machine, on private ports and folders."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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


def missing() -> str:
    """Why no Slurm can be started here; empty where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt install slurm-wlm"
    return "" if os.geteuid() == 0 else "slurmd starts jobs of other users, and wants to be root"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Starts it, waits until both nodes are idle, and ends it; the variables that lead to it."""
    ports = dict(zip(("controller", *NODES), _free_ports(1 + len(NODES)), strict=True))
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, **ports))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    with ExitStack() as running:

        def start(*words: str) -> None:
            with open(folder / "daemons.log", "ab") as log:
                process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
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
    asked = ["sinfo", "--noheader", "--Node", "--format=%t"]
    while time.monotonic() < deadline:
        done = subprocess.run(asked, env=environment, capture_output=True, text=True)
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
