"""Reads the NVIDIA driver through nvidia-smi, which every driver includes. No torch.

An empty result means that there is no driver, or that it does not respond.
"""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

TIMEOUT_S = 20.0  # the command hangs with a faulty driver


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process that uses a GPU."""

    gpu_uuid: str
    pid: int
    name: str
    memory_bytes: int | None
    """Null where the driver does not report it."""

    def described(self) -> str:
        """The process in an error message."""
        process = f"process {self.pid} ({self.name})"
        if self.memory_bytes is None:
            return f"{process} with memory that the driver does not report"
        return f"{process} with {self.memory_bytes / 2**30:.1f} GiB"


def gpus(query: str, uuid: str | None = None) -> list[list[str]]:
    """Rows of `--query-gpu`, one a GPU, or that of one GPU. Empty where the driver lacks a
    field."""
    return _rows(f"--query-gpu={query}", *([] if uuid is None else [f"--id={uuid}"]))


def remapped_rows(uuid: str) -> list[list[str]]:
    """Whether rows of a GPU's memory wait to be remapped, and whether remapping failed."""
    query = "remapped_rows.pending,remapped_rows.failure"
    return _rows(f"--query-remapped-rows={query}", f"--id={uuid}")


def topology() -> str:
    """The matrix of links between GPUs, as printed by `topo -m`."""
    return _output("topo", "-m")


def driver_version() -> str | None:
    """The driver's version; null without a driver."""
    rows = gpus("driver_version")
    return rows[0][0] if rows else None


def compute_processes() -> list[GpuProcess]:
    """All processes that use a GPU of this machine."""
    return processes_from(_rows("--query-compute-apps=gpu_uuid,pid,used_memory,process_name"))


def processes_from(rows: Iterable[list[str]]) -> list[GpuProcess]:
    """Parse rows of gpu_uuid, pid, used_memory in MiB (or [N/A]), process_name, which may hold
    commas."""
    found = []
    for row in rows:
        if len(row) < 4 or not row[1].isdigit():
            continue
        memory = int(row[2]) * 2**20 if row[2].isdigit() else None
        name = ",".join(row[3:])
        found.append(GpuProcess(gpu_uuid=row[0], pid=int(row[1]), name=name, memory_bytes=memory))
    return found


def _rows(*arguments: str) -> list[list[str]]:
    lines = _output(*arguments, "--format=csv,noheader,nounits").splitlines()
    return [[cell.strip() for cell in line.split(",")] for line in lines]


def _output(*arguments: str) -> str:
    command = ["nvidia-smi", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
