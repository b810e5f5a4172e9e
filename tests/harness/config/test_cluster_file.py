"""The cluster file: what is refused, and with what hint."""

from pathlib import Path

import pytest

from harness.config.cluster_file import load_cluster, parse_cluster
from harness.errors import StudyFileError

ROOT = Path(__file__).resolve().parents[3]
SLURM = "kind: slurm\nminutes: 10\n"


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_a_shipped_cluster_file_is_valid(name):
    cluster, text = load_cluster(ROOT / "ablations" / "clusters" / f"{name}.yaml")
    assert cluster.kind == name
    assert "harness submit" in text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("kind: slurm\n", ["'minutes'"]),
        (SLURM + "partitoin: gpu\n", ["cluster.yaml:3", "Did you mean 'partition'?"]),
        ("kind: pbs\nminutes: 10\n", ["kind", "'pbs'"]),
        ("kind: slurm\nminutes: 0\n", ["minutes", "1 or above"]),
        (SLURM + "nodes: 0\n", ["nodes", "1 or above"]),
        (SLURM + "cpus_per_task: -2\n", ["cpus_per_task", "-2"]),
        (SLURM + "gpus_per_node: 0\n", ["gpus_per_node", "or leave it out"]),
        (SLURM + "memory_gb: -1\n", ["memory_gb", "above 0"]),
        (SLURM + "requeue: -1\n", ["requeue", "0 or above"]),
        (SLURM + "signal_seconds_before_end: 600\n", ["below the 600 s", "checkpoint"]),
        (SLURM + "signal_seconds_before_end: 70000\n", ["of 65535 or below"]),
        (SLURM + "signal_seconds_before_end: 0\n", ["1 or above"]),
        (SLURM + 'setup: ["a\\nb"]\n', ["setup", "Make them two"]),
        ("kind: local\nminutes: 5\nrequeue: 6\n", ["up to 5", "same command"]),
        ("kind: local\nminutes: 5\nrequeue: 1\nnodes: 2\n", ["1 for a local job"]),
        ("kind: local\nminutes: 5\nrequeue: 1\nqos: high\n", ["qos", "`kind: slurm`"]),
        ("- a\n", ["a mapping", "ablations/clusters/"]),
    ],
)
def test_an_impossible_value_is_refused_with_its_line(text, parts):
    with pytest.raises(StudyFileError) as refused:
        parse_cluster(text, "cluster.yaml")
    for part in parts:
        assert part in str(refused.value)


def test_the_default_of_requeue_fits_the_kind_of_job():
    assert parse_cluster("kind: local\nminutes: 5\n", "c.yaml").requeues == 5
    assert parse_cluster("kind: slurm\nminutes: 5\n", "c.yaml").requeues == 10
    assert parse_cluster("kind: local\nminutes: 5\nrequeue: 0\n", "c.yaml").requeues == 0
