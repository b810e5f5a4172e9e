"""The cluster file: the resources of a job. Strict schema; errors name line and hint.

A key that is not set uses the cluster's own default. `kind: local` runs a submission on this
machine, without a scheduler.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from harness.config.yaml_schema import Strict, location, read_mapping, read_text, schema_error
from harness.errors import StudyFileError

EXAMPLE = "ablations/clusters/slurm.yaml"
LOCAL_REQUEUES = 5  # submitit's local executor starts a job at most six times
LONGEST_SIGNAL_S = 65535  # of Slurm's --signal
_OF_SLURM = ("partition", "account", "qos", "exclude", "cpus_per_task", "memory_gb")


class ClusterFile(Strict, frozen=True, kw_only=True):
    """The resources of one job, and what happens at its time limit."""

    kind: Literal["slurm", "local"]
    minutes: int  # time limit of one start; the job is requeued after it
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None  # of the one task per node
    memory_gb: float | None = None  # per node
    signal_seconds_before_end: int = 120  # time to end cleanly, after the scheduler's signal
    requeue: int = 10  # at most this many further starts after a time limit or a preemption
    jobs: int = 1  # of a search: this many workers, as an array
    setup: list[str] = msgspec.field(default_factory=list)  # shell lines, run first
    exclude: list[str] = msgspec.field(default_factory=list)  # nodes to avoid
    shared_store: bool = False  # every node can see the store, although it seems local


def load_cluster(path: Path) -> tuple[ClusterFile, str]:
    """A cluster file, and its text. Raises StudyFileError with the line of the mistake."""
    text = read_text(path, "a cluster file", EXAMPLE)
    return parse_cluster(text, str(path)), text


def parse_cluster(text: str, name: str) -> ClusterFile:
    """As `load_cluster`, from text; `name` is the file's name in errors."""
    plain, lines = read_mapping(text, name, "kind and minutes", "ablations/clusters/")
    try:
        cluster = msgspec.convert(plain, ClusterFile)
    except msgspec.ValidationError as error:
        raise schema_error(str(error), name, lines, "", _known_keys) from None
    where = partial(location, name, lines)
    _check_numbers(cluster, where)
    if any("\n" in line for line in cluster.setup):
        raise StudyFileError(
            where("setup"), "shell lines", "one with a line break in it", "Make them two."
        )
    unused = [key for key in _OF_SLURM if key in plain]
    if cluster.kind == "local" and unused:
        raise StudyFileError(
            where(unused[0]),
            "no key of a scheduler in a local job",
            ", ".join(unused),
            "Remove it, or write `kind: slurm`.",
        )
    return cluster


def _known_keys(path: str) -> list[str]:
    return [field.name for field in msgspec.structs.fields(ClusterFile)]


def _check_numbers(cluster: ClusterFile, where: Callable[[str], str]) -> None:
    """Ranges that the types do not express. Raises StudyFileError."""
    limit_s, signal_s = 60 * cluster.minutes, cluster.signal_seconds_before_end
    local = cluster.kind == "local"
    default = "Leave it out for the cluster's default."
    rules: list[tuple[str, bool, str, str]] = [
        ("minutes", cluster.minutes >= 1, "1 or more", "It is the time limit of one start."),
        ("nodes", cluster.nodes >= 1, "1 or more", "Leave it out for one."),
        ("nodes", not local or cluster.nodes == 1, "1 for a local job", "Leave it out."),
        ("jobs", cluster.jobs >= 1, "1 or more", "Leave it out for one."),
        ("requeue", cluster.requeue >= 0, "0 or more", "With 0 the job is never started again."),
        (
            "requeue",
            not local or cluster.requeue <= LOCAL_REQUEUES,
            f"up to {LOCAL_REQUEUES} for a local job",
            "Re-run the same command to resume after them.",
        ),
        ("gpus_per_node", _unset_or_positive(cluster.gpus_per_node), "above 0", default),
        ("cpus_per_task", _unset_or_positive(cluster.cpus_per_task), "above 0", default),
        ("memory_gb", _unset_or_positive(cluster.memory_gb), "above 0", default),
        (
            "signal_seconds_before_end",
            1 <= signal_s <= LONGEST_SIGNAL_S and signal_s < limit_s,
            f"from 1 to {LONGEST_SIGNAL_S}, and below the {limit_s} s of `minutes`",
            "It is the time to end cleanly, checkpoint included.",
        ),
    ]
    for key, good, wanted, hint in rules:
        if not good:
            got = repr(getattr(cluster, key))
            raise StudyFileError(where(key), f"a number, {wanted}", got, hint)


def _unset_or_positive(value: float | None) -> bool:
    return value is None or value > 0
