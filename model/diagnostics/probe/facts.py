"""What a rank says in the two rounds of a probe: of its machine, then of its GPU at work.

Plain values that go from rank to rank as JSON. Whatever could not be read is null; what keeps a run
off the machine is a finding of that rank alone (model/runtime/preflight.py), judged where it was
read."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from model.diagnostics.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU of a rank before it works."""

    name: str
    uuid: str
    memory_bytes: int
    free_bytes: int
    processes: tuple[str, ...] = ()
    """Of others that compute on it."""
    uncorrected_errors: int | None = None
    """Of its memory, since the driver was loaded."""
    memory_waits: bool = False
    """Whether memory that failed waits for a reset to be replaced."""
    memory_failed: bool = False
    """Whether there is nothing left to replace it with."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A GPU at one moment of its work."""

    power_limit_w: float | None = None
    power_default_w: float | None = None
    """The limit that its model has unless somebody sets another."""
    sm_clock_mhz: float | None = None
    sm_clock_max_mhz: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = None
    """Why the clock is not higher; null where the driver does not tell."""
    idle: bool = False
    """Whether its work was over by then, so that the clock says nothing."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The first round: one rank and its machine."""

    rank: int
    node: int = 0
    device: str | None = None
    """`cuda` or `cpu`; null where the rank has nothing to run on."""
    gpu: Gpu | None = None
    cpu: dict[str, Any] | None = None
    versions: dict[str, str | None] | None = None
    """Of driver, CUDA, NCCL and torch."""
    kernels: dict[str, str] | None = None
    """Operation -> kernel that a run would take here."""
    links: list[list[str]] | None = None
    """Of all GPUs of this machine, from its first rank."""
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> str:
        """As one rank leaves it for the others."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Seen":
        """As another rank reads it."""
        value = json.loads(text)
        gpu = value["gpu"]
        if gpu is not None:
            value["gpu"] = Gpu(**{**gpu, "processes": tuple(gpu["processes"])})
        value["findings"] = tuple(Finding(**finding) for finding in value["findings"])
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class Worked:
    """The second round: one rank's GPU, or its share of a CPU, at work with all others."""

    matmul_tflops: float | None = None
    copy_gb_s: float | None = None
    state: State | None = None
    """Null on a CPU."""
    problem: str | None = None
    """Why there are no rates."""

    def to_json(self) -> str:
        """As one rank leaves it for the others."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Worked":
        """As another rank reads it."""
        value = json.loads(text)
        state = value["state"]
        if state is not None:
            reasons = state["throttled"]
            told = None if reasons is None else tuple(reasons)
            value["state"] = State(**{**state, "throttled": told})
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class Sum:
    """An all-reduce of one size over all ranks."""

    bytes: int
    seconds: float
    bus_gb_s: float
    """2 (n - 1) / n of the bytes over the seconds: what each link carries, whatever n is."""
