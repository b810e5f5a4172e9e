"""Checks that every node of a cluster can see the store.

A job is submitted on one machine, runs on a second and resumes on a third. A store on a
file system that is certainly one node's own is refused: memory, a container's layer, folders for
temporary files. `mounts` is the text of /proc/self/mountinfo.
"""

from pathlib import Path

from harness.errors import ClusterError

NODE_TYPES = {"tmpfs", "ramfs", "devtmpfs", "overlay", "squashfs"}
NODE_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
UNSAFE_LOCKS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"}
"""Where several nodes must not write one SQLite file (sqlite.org/lockingv3.html)."""


def mounts_here() -> str:
    """The mounts of this process; empty on a system without /proc."""
    try:
        return Path("/proc/self/mountinfo").read_text()
    except FileNotFoundError:
        return ""


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds a path; empty where it is unknown."""
    best, result = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))  # \040 is a space
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, result = len(point.parts), right.split()[0]
    return result


def check_shared(store: Path, mounts: str) -> None:
    """Raises ClusterError for a store that is certainly one node's own."""
    path = store.resolve()
    kind = file_system(path, mounts)
    folder = next((folder for folder in NODE_FOLDERS if path.is_relative_to(folder)), None)
    if folder is None and kind not in NODE_TYPES:
        return
    raise ClusterError(
        f"--store {store}",
        "a store that every node of the cluster can see",
        f"{path}, below {folder}" if folder else f"{path}, on {kind}",
        "Use a store on the cluster's shared file system. If every node can see this one, write "
        "`shared_store: true` into the cluster file.",
    )


def check_writers(store: Path, jobs: int, mounts: str) -> None:
    """Raises ClusterError where several jobs would share a SQLite file without safe locks."""
    kind = file_system(store.resolve(), mounts)
    if jobs > 1 and kind in UNSAFE_LOCKS:
        raise ClusterError(
            "jobs",
            "a storage that several nodes can write safely",
            f"a SQLite file on {kind}",
            "Add --storage postgresql://user@host/database to the search.",
        )
