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

    def told(self) -> str:
        """As a line of an error has it."""
        process = f"process {self.pid} ({self.name})"
        if self.memory_bytes is None:
            return f"{process} with memory that the driver does not tell"
        return f"{process} with {self.memory_bytes / 2**30:.1f} GiB"


def gpus(query: str) -> list[list[str]]:
    """Rows of `--query-gpu`, one a GPU."""
    return _rows(f"--query-gpu={query}")


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


def _rows(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
