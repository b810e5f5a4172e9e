"""The command line of one trainer on several nodes of a Slurm allocation.

srun starts one torchrun per node and torchrun one rank per GPU; they rendezvous at the first node,
where the scheduler starts the job and this process runs. stdin_bridge.py stands between the harness
and srun, so that trainers on other nodes end when the harness does.
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

    Arguments appended to the returned line reach the module, `--watch-fd N` on every node.

    Args:
        command: The module and its arguments, such as ["model.train", "--config", ...].
        nodes: The number of nodes.
        ranks_per_node: The number of ranks, one per GPU, on each node.
        python: The interpreter, at the same path on every node.
        environment: The environment variables with the scheduler's description of the allocation.

    Raises ClusterError outside an allocation, in one that is too small, and on a node other than
    its first.
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
    """One task per node with all resources of the job there; if one ends, all are ended."""
    command = ["srun", "--nodes", str(nodes), "--ntasks", str(nodes), "--ntasks-per-node", "1"]
    command += ["--kill-on-bad-exit=1", "--unbuffered"]
    # since Slurm 22.05 a step does not inherit this from its job and would get one core
    if cpus := environment.get("SLURM_CPUS_PER_TASK"):
        command += ["--cpus-per-task", cpus]
    return command


def _check(nodes: int, environment: Mapping[str, str]) -> None:
    allocated = int(environment.get("SLURM_JOB_NUM_NODES") or 0)
    if "SLURM_JOB_ID" not in environment or allocated < nodes:
        raise ClusterError(
            "nodes",
            f"a Slurm allocation of {nodes} nodes",
            f"one of {allocated}" if allocated else "no allocation",
            f"Write `nodes: {nodes}` into a cluster file and start it by "
            "`harness submit CLUSTER.yaml -- ...`.",
        )
    if environment.get("SLURM_NODEID", "0") != "0":
        expected = "the harness on the first node of its allocation"
        hint = "Start it with `harness submit`, or outside srun: once, not once per node."
        raise ClusterError("nodes", expected, f"node {environment['SLURM_NODEID']}", hint)


def free_port() -> int:
    """A TCP port of this host that is not in use."""
    with socket.socket() as server:
        server.bind(("", 0))
        port: int = server.getsockname()[1]
    return port
