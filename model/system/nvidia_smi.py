"""What the NVIDIA driver tells through nvidia-smi, which comes with every driver. No torch.

An empty answer means that there is no driver, or none that answers; who asks decides what
follows from that.
"""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

TIMEOUT_S = 20.0  # a driver in trouble lets the command hang


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process that computes on a GPU."""

    gpu_uuid: str
    pid: int
    name: str
    memory_bytes: int | None
    """Null where the driver keeps it to itself."""

    def described(self) -> str:
        """As a line of an error has it."""
        process = f"process {self.pid} ({self.name})"
        if self.memory_bytes is None:
            return f"{process} with memory that the driver does not tell"
        return f"{process} with {self.memory_bytes / 2**30:.1f} GiB"


def gpus(query: str, uuid: str | None = None) -> list[list[str]]:
    """Rows of `--query-gpu`, one a GPU, or that of one GPU. A driver that lacks one of the fields
    answers none of them."""
    return _rows(f"--query-gpu={query}", *([] if uuid is None else [f"--id={uuid}"]))


def remapped_rows(uuid: str) -> list[list[str]]:
    """Whether rows of a GPU's memory wait to be remapped, and whether that has failed."""
    query = "remapped_rows.pending,remapped_rows.failure"
    return _rows(f"--query-remapped-rows={query}", f"--id={uuid}")


def topology() -> str:
    """The matrix of links between GPUs as `topo -m` prints it."""
    return _output("topo", "-m")


def driver_version() -> str | None:
    """The driver's version, or null where none answers."""
    rows = gpus("driver_version")
    return rows[0][0] if rows else None


def compute_processes() -> list[GpuProcess]:
    """All processes that compute on any GPU of this machine."""
    return processes_from(_rows("--query-compute-apps=gpu_uuid,pid,used_memory,process_name"))


def processes_from(rows: Iterable[list[str]]) -> list[GpuProcess]:
    """Rows of gpu_uuid, pid, used_memory in MiB (or [N/A]), process_name, which may hold commas."""
    found = []
    for row in rows:
        if len(row) < 4 or not row[1].isdigit():
            continue
        memory = int(row[2]) * 2**20 if row[2].isdigit() else None
        name = ",".join(row[3:])
        found.append(GpuProcess(gpu_uuid=row[0], pid=int(row[1]), name=name, memory_bytes=memory))
    return found


def _rows(*words: str) -> list[list[str]]:
    lines = _output(*words, "--format=csv,noheader,nounits").splitlines()
    return [[cell.strip() for cell in line.split(",")] for line in lines]


def _output(*words: str) -> str:
    command = ["nvidia-smi", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
