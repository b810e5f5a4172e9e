"""Stores that other nodes could not see are refused."""

from pathlib import Path

import pytest

from harness.cli.slurm.submit import check_shared, check_writers
from harness.errors import ClusterError
from harness.files import file_system

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:30 / /run rw,nosuid shared:2 - tmpfs tmpfs rw
50 22 0:44 / /home rw,relatime shared:3 - nfs4 server:/home rw
51 22 0:45 / /my\\040data rw,relatime shared:4 - lustre mds:/data rw
52 50 0:46 / /home/scratch rw,relatime - xfs /dev/nvme0n1 rw
"""


def test_the_innermost_mount_gives_the_file_system_of_a_path():
    assert file_system(Path("/home/me/runs"), MOUNTS) == "nfs4"
    assert file_system(Path("/home/scratch/runs"), MOUNTS) == "xfs"
    assert file_system(Path("/homes"), MOUNTS) == "ext4"
    assert file_system(Path("/my data/runs"), MOUNTS) == "lustre"
    assert file_system(Path("/runs"), "") == ""


@pytest.mark.parametrize(
    ("store", "message"), [("/tmp/runs", "below /tmp"), ("/run/user/runs", "on tmpfs")]
)
def test_a_store_of_one_node_is_refused_unless_the_cluster_file_declares_it_shared(store, message):
    with pytest.raises(ClusterError, match=message) as refused:
        check_shared(Path(store), MOUNTS)
    assert "shared_store: true" in refused.value.hint
    check_shared(Path("/home/me/runs"), MOUNTS)


def test_workers_of_several_nodes_never_share_a_sqlite_file_on_nfs():
    with pytest.raises(ClusterError, match="nfs4"):
        check_writers(Path("/home/me/runs"), 2, MOUNTS)
    check_writers(Path("/home/me/runs"), 1, MOUNTS)
    check_writers(Path("/my data/runs"), 2, MOUNTS)
