"""Whether every node of a cluster sees one store.

A job runs on another machine than the one that submitted it, and goes on on a third: what it
recorded has to be there. No command can look from here into other nodes, so what is certainly a
node's own is refused: memory, a container's layer, the folders for temporary files. `mounts` is the
text of /proc/self/mountinfo.
"""

from pathlib import Path

from harness.errors import ClusterError

OWN_TYPES = {"tmpfs", "ramfs", "devtmpfs", "overlay", "squashfs"}
OWN_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
WEAK_LOCKS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"}
"""Where several nodes must not write one SQLite file (sqlite.org/lockingv3.html)."""
VOUCH = "If every node does see it there, write `shared_store: true` into the cluster file."


def mounts_here() -> str:
    """The mounts of this process; empty on a system without /proc."""
    try:
        return Path("/proc/self/mountinfo").read_text()
    except FileNotFoundError:
        return ""


def type_of(path: Path, mounts: str) -> str:
    """The type of the file system a path lies on; empty where nobody says."""
    best, found = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))  # \040 is a space
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), right.split()[0]
    return found


def check_shared(store: Path, mounts: str) -> None:
    """Raises ClusterError for a store that is certainly one node's own."""
    path = store.resolve()
    kind = type_of(path, mounts)
    folder = next((folder for folder in OWN_FOLDERS if path.is_relative_to(folder)), None)
    if folder is None and kind not in OWN_TYPES:
        return
    raise ClusterError(
        f"--store {store}",
        "a store that every node of the cluster sees",
        f"{path}, below {folder}" if folder else f"{path}, on {kind}",
        f"Name one on the cluster's shared file system. {VOUCH}",
    )


def check_writers(store: Path, jobs: int, mounts: str) -> None:
    """Raises ClusterError where several jobs would share a SQLite file that has no locks."""
    kind = type_of(store.resolve(), mounts)
    if jobs > 1 and kind in WEAK_LOCKS:
        raise ClusterError(
            "jobs",
            "a storage that several nodes may write",
            f"a SQLite file on {kind}",
            "Add --storage postgresql://user@host/database to the search.",
        )
