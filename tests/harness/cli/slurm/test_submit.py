"""Stores that no other node would see."""

from pathlib import Path

import pytest

from harness.cli.slurm.shared import check_shared, check_writers, type_of
from harness.errors import ClusterError

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:30 / /run rw,nosuid shared:2 - tmpfs tmpfs rw
50 22 0:44 / /home rw,relatime shared:3 - nfs4 server:/home rw
51 22 0:45 / /my\\040data rw,relatime shared:4 - lustre mds:/data rw
52 50 0:46 / /home/scratch rw,relatime - xfs /dev/nvme0n1 rw
"""


def test_the_innermost_mount_says_what_a_path_lies_on():
    assert type_of(Path("/home/me/runs"), MOUNTS) == "nfs4"
    assert type_of(Path("/home/scratch/runs"), MOUNTS) == "xfs"
    assert type_of(Path("/homes"), MOUNTS) == "ext4"
    assert type_of(Path("/my data/runs"), MOUNTS) == "lustre"
    assert type_of(Path("/runs"), "") == ""


@pytest.mark.parametrize(
    ("store", "words"), [("/tmp/runs", "below /tmp"), ("/run/user/runs", "on tmpfs")]
)
def test_a_store_of_one_node_is_refused_unless_a_person_vouches_for_it(store, words):
    with pytest.raises(ClusterError, match=words) as refused:
        check_shared(Path(store), MOUNTS)
    assert "shared_store: true" in refused.value.hint
    check_shared(Path("/home/me/runs"), MOUNTS)


def test_workers_of_several_nodes_never_share_a_sqlite_file_on_nfs():
    with pytest.raises(ClusterError, match="nfs4"):
        check_writers(Path("/home/me/runs"), 2, MOUNTS)
    check_writers(Path("/home/me/runs"), 1, MOUNTS)
    check_writers(Path("/my data/runs"), 2, MOUNTS)
