"""One trainer over several nodes of an allocation: its command line, out of srun and torchrun.

srun starts one torchrun a node, torchrun one rank a GPU, and they find each other at the first
node, which is the one that this runs on: the scheduler starts a job there. Between the harness and
srun stands tether.py, so that trainers of other nodes end as one beside the harness does.
First of the files about clusters; reads the variables of the scheduler and starts nothing.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import ClusterError
from harness.runner import stdin_bridge


def multinode_command(
    command: Sequence[str],
    nodes: int,
    ranks_per_node: int,
    *,
    python: str,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """The command line that runs a trainer's module on several nodes of this allocation.

    `command`: the module and its words, such as ["model.train", "--config", ...]; `python`: its
    interpreter, at one path on every node. What is appended to the line reaches the module; an
    appended `--watch-fd N` does so on every node. Raises ClusterError outside of an allocation, in
    one that is too small, and beside its first node.
    """
    assert nodes >= 1, nodes
    assert ranks_per_node >= 1, ranks_per_node
    _check(nodes, environment)
    host, port = socket.gethostname(), free_port()
    return [
        *(python, "-I", str(Path(stdin_bridge.__file__).resolve())),
        *_srun(nodes, environment),
        *(python, "-m", "torch.distributed.run"),
        *("--nnodes", str(nodes), "--nproc-per-node", str(ranks_per_node)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{host}:{port}"),
        *("--rdzv-id", f"{environment['SLURM_JOB_ID']}-{port}"),
        *("-m", *command),
    ]


def _srun(nodes: int, environment: Mapping[str, str]) -> list[str]:
    """One task a node, with all that the job has there; the end of one of them ends the others."""
    words = ["srun", "--nodes", str(nodes), "--ntasks", str(nodes), "--ntasks-per-node", "1"]
    words += ["--kill-on-bad-exit=1", "--unbuffered"]
    # since Slurm 22.05 a step no longer takes this over from its job, and has one core instead
    if cpus := environment.get("SLURM_CPUS_PER_TASK"):
        words += ["--cpus-per-task", cpus]
    return words


def _check(nodes: int, environment: Mapping[str, str]) -> None:
    there = int(environment.get("SLURM_JOB_NUM_NODES") or 0)
    if "SLURM_JOB_ID" not in environment or there < nodes:
        raise ClusterError(
            "nodes",
            f"an allocation of {nodes} nodes by Slurm",
            f"one of {there}" if there else "none",
            f"Write `nodes: {nodes}` into a cluster file and start it by "
            "`harness submit CLUSTER.yaml -- ...`.",
        )
    if environment.get("SLURM_NODEID", "0") != "0":
        raise ClusterError(
            "nodes",
            "the harness on the first node of its allocation",
            f"node number {environment['SLURM_NODEID']} of it",
            "Start it by `harness submit`, or outside of srun: once, not once a node.",
        )


def free_port() -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket() as server:
        server.bind(("", 0))
        port: int = server.getsockname()[1]
    return port
