"""The cluster file: what a job asks a scheduler for. Its strict schema, and errors with line and
hint.

Text in, a `ClusterFile` out. What is not written is not asked for, and the cluster's own default
holds. `kind: local` tries a submission out on this machine, without a scheduler.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.config.yaml_schema import Strict, location, read_mapping, read_text, schema_error
from harness.errors import StudyFileError

EXAMPLE = "ablations/clusters/slurm.yaml"
LOCAL_REQUEUES = 5  # submitit's local executor starts a job six times at most
LONGEST_SIGNAL_S = 65535  # of Slurm's --signal
_OF_SLURM = ("partition", "account", "qos", "exclude", "cpus_per_task", "memory_gb")


class ClusterFile(Strict, frozen=True, kw_only=True):
    """What one job asks for, and what happens at its time limit."""

    kind: Literal["slurm", "local"]
    minutes: int  # the time limit of one start; the job goes on with the next one
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None  # of the one task a node
    memory_gb: float | None = None  # of a node
    signal_seconds_before_end: int = 120  # the command is asked to stop then, and has as long
    requeue: int = 10  # at most so many further starts after a time limit or a preemption
    jobs: int = 1  # of a search: so many workers, as an array
    setup: list[str] = msgspec.field(default_factory=list)  # lines of the shell, run before
    exclude: list[str] = msgspec.field(default_factory=list)  # nodes not to be had
    shared_store: bool = False  # every node sees the store, although it does not look so


def load_cluster(path: Path) -> tuple[ClusterFile, str]:
    """A cluster file, and its text. Raises StudyFileError with the line of the fault."""
    text = read_text(path, "a cluster file", EXAMPLE)
    return parse_cluster(text, str(path)), text


def parse_cluster(text: str, name: str) -> ClusterFile:
    """As `load_cluster`, from text; `name` stands in its errors."""
    plain, lines = read_mapping(text, name, "kind and minutes", "ablations/clusters/")
    try:
        cluster = msgspec.convert(plain, ClusterFile)
    except msgspec.ValidationError as error:
        raise schema_error(str(error), name, lines, "", _known_keys) from None
    _check(cluster, plain, lambda key: location(name, lines, key))
    return cluster


def _known_keys(path: str) -> list[str]:
    return [field.name for field in msgspec.structs.fields(ClusterFile)]


def _check(cluster: ClusterFile, plain: dict[str, Any], where: Callable[[str], str]) -> None:
    """What the types cannot say. Raises StudyFileError."""
    limit_s = 60 * cluster.minutes
    signal_s = cluster.signal_seconds_before_end
    local = cluster.kind == "local"
    default = "Leave it out for the cluster's default."
    rules: list[tuple[str, bool, str, str]] = [
        ("minutes", cluster.minutes >= 1, "1 or more", "It is the time limit of one start."),
        ("nodes", cluster.nodes >= 1, "1 or more", "Leave it out for one."),
        ("jobs", cluster.jobs >= 1, "1 or more", "Leave it out for one."),
        ("requeue", cluster.requeue >= 0, "0 or more", "0 never starts the job again."),
        ("gpus_per_node", cluster.gpus_per_node != 0, "1 or more", "Leave it out for none."),
        ("cpus_per_task", cluster.cpus_per_task != 0, "1 or more", default),
        ("memory_gb", cluster.memory_gb != 0, "above 0", default),
        (
            "signal_seconds_before_end",
            1 <= signal_s <= LONGEST_SIGNAL_S and signal_s < limit_s,
            f"from 1 to {LONGEST_SIGNAL_S}, and below the {limit_s} s of `minutes`",
            "It is the time to end cleanly, checkpoint included.",
        ),
        (
            "requeue",
            not local or cluster.requeue <= LOCAL_REQUEUES,
            f"up to {LOCAL_REQUEUES} for a local job",
            "Give the same command again after them.",
        ),
        ("nodes", not local or cluster.nodes == 1, "1 for a local job", "This machine is one."),
    ]
    optional = ("gpus_per_node", "cpus_per_task", "memory_gb")
    rules += [(key, (getattr(cluster, key) or 1) > 0, "above 0", default) for key in optional]
    for key, good, wanted, hint in rules:
        if not good:
            raise StudyFileError(
                where(key), f"a number, {wanted}", repr(getattr(cluster, key)), hint
            )
    if any("\n" in line for line in cluster.setup):
        raise StudyFileError(
            where("setup"), "lines of the shell", "one with a line break in it", "Make them two."
        )
    if local and (asked := [key for key in _OF_SLURM if key in plain]):
        raise StudyFileError(
            where(asked[0]),
            "nothing of a scheduler in a local job",
            ", ".join(asked),
            "Remove it, or write `kind: slurm`.",
        )
