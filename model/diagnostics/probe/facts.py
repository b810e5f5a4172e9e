"""The facts that ranks exchange in the two rounds of a probe: on the machine, and on the GPU at
work.

Plain values, sent as JSON. A value that could not be read is null; a fault of one rank is a finding
(model/runtime/preflight.py), made on that rank.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from model.diagnostics.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU of a rank before the measurement."""

    name: str
    uuid: str
    memory_bytes: int
    free_bytes: int
    processes: tuple[str, ...] = ()
    """Other processes that use it."""
    uncorrected_errors: int | None = None
    """Memory errors since the driver was loaded."""
    memory_waits: bool = False
    """Whether failed memory waits for a reset to be replaced."""
    memory_failed: bool = False
    """Whether failed memory cannot be replaced."""


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """The state of a GPU during the measurement."""

    power_limit_w: float | None = None
    power_default_w: float | None = None
    """The model's default power limit."""
    sm_clock_mhz: float | None = None
    sm_clock_max_mhz: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = None
    """Reasons for a low clock; null where the driver does not report them."""
    idle: bool = False
    """Whether the work had ended, so that the clock is meaningless."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The first round: one rank and its machine."""

    rank: int
    node: int = 0
    device: str | None = None
    """`cuda` or `cpu`; null where the rank has no device."""
    gpu: Gpu | None = None
    cpu: dict[str, Any] | None = None
    versions: dict[str, str | None] | None = None
    kernels: dict[str, str] | None = None
    """Operation -> kernel of a run on this machine."""
    links: list[list[str]] | None = None
    """Links of all GPUs of this machine, from its first rank."""
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Machine":
        value = json.loads(text)
        gpu = value["gpu"]
        if gpu is not None:
            value["gpu"] = Gpu(**{**gpu, "processes": tuple(gpu["processes"])})
        value["findings"] = tuple(Finding(**finding) for finding in value["findings"])
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The second round: the rates of one rank's GPU, or of its share of a CPU, while all ranks
    work."""

    matmul_tflops: float | None = None
    copy_gb_s: float | None = None
    state: GpuState | None = None
    """Null on a CPU."""
    problem: str | None = None
    """The reason for missing rates."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Work":
        value = json.loads(text)
        state = value["state"]
        if state is not None:
            reasons = state["throttled"]
            throttled = None if reasons is None else tuple(reasons)
            value["state"] = GpuState(**{**state, "throttled": throttled})
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class SumTime:
    """An all-reduce of one size over all ranks."""

    bytes: int
    seconds: float
    bus_gb_s: float
    """2 (n - 1) / n of the bytes over the seconds: the load of each link."""
