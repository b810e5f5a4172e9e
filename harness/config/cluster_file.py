"""The cluster file: the resources of a job. Strict schema; errors name line and hint.

A key that is not set uses the cluster's own default. `kind: local` runs a submission on this
machine, without a scheduler.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from harness.config.field_types import MinutesInt, NotNegativeInt, Positive, PositiveInt
from harness.config.yaml_schema import (
    Strict,
    Where,
    convert,
    read_mapping,
    read_text,
)
from harness.errors import StudyFileError

EXAMPLE = "ablations/clusters/slurm.yaml"
LOCAL_REQUEUES = 5  # submitit's local executor starts a job at most six times
SLURM_REQUEUES = 10  # by default
LONGEST_SIGNAL_S = 65535  # of Slurm's --signal
_OF_SLURM = ("partition", "account", "qos", "exclude", "cpus_per_task", "memory_gb")


class ClusterFile(Strict, frozen=True, kw_only=True):
    """The resources of one job, and what happens at its time limit."""

    kind: Literal["slurm", "local"]
    minutes: MinutesInt  # time limit of one start; the job is requeued after it
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: PositiveInt = 1
    gpus_per_node: PositiveInt | None = None
    cpus_per_task: PositiveInt | None = None  # of the one task per node
    memory_gb: Positive | None = None  # per node
    signal_seconds_before_end: Annotated[int, msgspec.Meta(ge=1, le=LONGEST_SIGNAL_S)] = 120
    """The time to end cleanly, checkpoint included, after the scheduler's signal."""
    requeue: NotNegativeInt | None = None
    """At most this many further starts after a time limit or a preemption; 10, locally 5."""
    jobs: PositiveInt = 1  # of a search: this many workers, as an array
    setup: list[str] = msgspec.field(default_factory=list)  # shell lines, run first
    exclude: list[str] = msgspec.field(default_factory=list)  # nodes to avoid
    shared_store: bool = False  # every node can see the store, although it seems local

    @property
    def requeues(self) -> int:
        """`requeue`, or its default for this kind of job."""
        default = LOCAL_REQUEUES if self.kind == "local" else SLURM_REQUEUES
        return default if self.requeue is None else self.requeue


def load_cluster(path: Path) -> tuple[ClusterFile, str]:
    """A cluster file, and its text. Raises StudyFileError with the line of the mistake."""
    text = read_text(path, "a cluster file", EXAMPLE)
    return parse_cluster(text, str(path)), text


def parse_cluster(text: str, name: str) -> ClusterFile:
    """As `load_cluster`, from text; `name` is the file's name in errors."""
    plain, where = read_mapping(text, name, "kind and minutes", "ablations/clusters/")
    cluster: ClusterFile = convert(plain, ClusterFile, where)
    _check_numbers(cluster, where)
    if any("\n" in line for line in cluster.setup):
        raise StudyFileError(
            where("setup"), "shell lines", "one with a line break in it", "Make them two."
        )
    unused = [key for key in _OF_SLURM if key in plain]
    if cluster.kind == "local" and unused:
        expected = "no key of a scheduler in a local job"
        got = ", ".join(unused)
        raise StudyFileError(where(unused[0]), expected, got, "Remove it, or write `kind: slurm`.")
    return cluster


def _check_numbers(cluster: ClusterFile, where: Where) -> None:
    """Ranges that depend on another key. Raises StudyFileError."""
    limit_s, local = 60 * cluster.minutes, cluster.kind == "local"
    requeues = f"up to {LOCAL_REQUEUES} for a local job"
    resume = "Re-run the same command to resume after them."
    below, checkpoint = f"below the {limit_s} s of `minutes`", "It includes writing a checkpoint."
    signal_s = cluster.signal_seconds_before_end
    rules: list[tuple[str, bool, str, str]] = [
        ("nodes", not local or cluster.nodes == 1, "1 for a local job", "Leave it out."),
        ("requeue", not local or cluster.requeues <= LOCAL_REQUEUES, requeues, resume),
        ("signal_seconds_before_end", signal_s < limit_s, below, checkpoint),
    ]
    for key, good, wanted, hint in rules:
        if not good:
            got = repr(getattr(cluster, key))
            raise StudyFileError(where(key), f"a number, {wanted}", got, hint)
