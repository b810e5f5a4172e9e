"""Inspects one rank's machine, then measures its GPU.

The inspection is that of every run before it starts (model/runtime/preflight.py), with the kernels
of the run, and what the driver reports of the GPU's memory and links. The measurement is the
calibration of every run (model/runtime/environment.py) on all ranks at once, because GPUs share
power and cooling.
"""

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from model.config import Config
from model.config.derive import Derived, with_rows
from model.config.memory import memory_of
from model.diagnostics.finding import Finding, check, from_error, info
from model.diagnostics.probe import gpu_state
from model.diagnostics.probe import topology as links
from model.diagnostics.probe.facts import Gpu, GpuState, Machine, Work
from model.distributed.ranks import Ranks
from model.errors import MachineError
from model.runtime.preflight import (
    SUBJECTS,
    GpuFacts,
    device_of,
    faults,
    fitting_rows,
    settled_facts,
)
from model.system import nvidia_smi
from model.system.failure import IN_THE_GPU, classify

if TYPE_CHECKING:
    import torch

    from model.kernels import Kernels

WORK_S = {"cuda": 6.0, "cpu": 0.4}
# clock and power have settled, and the matmuls, half of the time, still run
STATE_AFTER_S = 1.5


def inspect_machine(
    config: Config, derived: Derived, ranks: Ranks
) -> "tuple[Machine, torch.device | None]":
    """The devices of this rank; faults become findings. Raises nothing."""
    node = ranks.rank // ranks.local_count
    try:
        device = device_of(config, ranks)
        if device.type == "cuda":
            return _inspect_gpu(config, derived, ranks, device), device
        return _inspect_cpu(config, derived, ranks), device
    except MachineError as error:
        found = from_error(SUBJECTS.get(error.path, "kernels"), error)
        return Machine(rank=ranks.rank, node=node, findings=(found,)), None
    except Exception as error:  # CUDA's exceptions have no common class
        return Machine(rank=ranks.rank, node=node, findings=(gpu_failure(error),)), None


def gpu_failure(error: Exception) -> Finding:
    """The finding of a GPU that does not respond or fails."""
    failure = classify(error)
    return check(
        "GPU",
        ok=False,
        expected="one that responds and works",
        got=failure.reason,
        hint=failure.hint or IN_THE_GPU,
    )


def measure(config: Config, device: "torch.device") -> Work:
    """Rates of this rank, and the state of its GPU during the work; a failure is in `problem`."""
    from model.runtime.environment import calibrate

    try:
        _set_device(device)
        state = _StateAtWork(device)
        rates = calibrate(device, config.system.precision, WORK_S[device.type])
    except Exception as error:  # as above
        return Work(problem=classify(error).reason)
    assert rates is not None
    return Work(
        matmul_tflops=rates["matmul_tflops"], copy_gb_s=rates["copy_gb_s"], state=state.read()
    )


def _inspect_cpu(config: Config, derived: Derived, ranks: Ranks) -> Machine:
    import torch

    from model.kernels import choose, kernel_plan
    from model.runtime.environment import cpu_json

    kernels = choose(config, derived.sizes, torch.device("cpu"))
    return Machine(
        rank=ranks.rank,
        node=ranks.rank // ranks.local_count,
        device="cpu",
        cpu={**cpu_json(), "threads": torch.get_num_threads()},
        versions=_versions(),
        kernels=kernel_plan(config, kernels),
    )


def _inspect_gpu(config: Config, derived: Derived, ranks: Ranks, device: "torch.device") -> Machine:
    from model.kernels import kernel_plan

    facts = settled_facts(config, device)  # before this process has memory on it
    _set_device(device)
    kernels, found = _check_gpu(config, derived, facts, device)
    uuid = _uuid(device)
    errors, waits, broken = gpu_state.memory_of(uuid)
    return Machine(
        rank=ranks.rank,
        node=ranks.rank // ranks.local_count,
        device="cuda",
        gpu=Gpu(
            name=facts.name,
            uuid=uuid,
            memory_bytes=facts.total_bytes,
            free_bytes=facts.free_bytes,
            processes=tuple(process.described() for process in facts.processes),
            uncorrected_errors=errors,
            memory_waits=waits,
            memory_failed=broken,
        ),
        versions=_versions(),
        kernels=None if kernels is None else kernel_plan(config, kernels),
        links=_links(ranks) if ranks.local == 0 and ranks.local_count > 1 else None,
        findings=tuple(found),
    )


def _check_gpu(
    config: Config, derived: Derived, facts: GpuFacts, device: "torch.device"
) -> "tuple[Kernels | None, list[Finding]]":
    """The kernels of a run, and the faults of this GPU, in the order of a run."""
    from model.kernels import choose

    found = list(_as_findings(facts, config, None))
    if found:
        return None, found
    kernels = choose(config, derived.sizes, device)
    if config.system.fit_memory:
        rows = fitting_rows(config, derived, facts.free_bytes, kernels.fused)
        derived = with_rows(config, derived, rows)
    found = list(_as_findings(facts, config, derived, kernels))
    return kernels, found or [_memory_fits(config, derived, facts, kernels)]


def _as_findings(
    facts: GpuFacts, config: Config, derived: Derived | None, kernels: "Kernels | None" = None
) -> Iterator[Finding]:
    fused = frozenset[str]() if kernels is None else kernels.fused
    for fault in faults(facts, config, derived, fused):
        yield from_error(SUBJECTS[fault.path], fault)


def _memory_fits(config: Config, derived: Derived, facts: GpuFacts, kernels: "Kernels") -> Finding:
    counts, rows = derived.parameters, derived.device_batch_rows
    needed = memory_of(config, derived.sizes, counts, rows, kernels.fused, derived.ranks).peak
    free = f"{facts.free_bytes / 2**30:.1f} GiB free of {facts.total_bytes / 2**30:.1f}"
    return info("memory", expected=f"about {needed / 2**30:.1f} GiB", got=free)


def _links(ranks: Ranks) -> list[list[str]] | None:
    import torch

    index_of = {row[1]: row[0] for row in nvidia_smi.gpus("index,uuid") if len(row) == 2}
    uuids = [_uuid(torch.device("cuda", index)) for index in range(ranks.local_count)]
    return links.between(nvidia_smi.topology(), index_of, uuids)


def _set_device(device: "torch.device") -> None:
    """Set a rank's GPU as this thread's device; a single rank has the default."""
    import torch

    if device.index is not None:
        torch.cuda.set_device(device)


def _uuid(device: "torch.device") -> str:
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _versions() -> dict[str, str | None]:
    import torch

    nccl = None
    if torch.cuda.is_available():
        nccl = ".".join(str(part) for part in torch.cuda.nccl.version())
    return {
        "driver": nvidia_smi.driver_version(),
        "cuda": torch.version.cuda,
        "nccl": nccl,
        "torch": torch.__version__,
    }


class _StateAtWork:
    """Reads the driver once, STATE_AFTER_S after creation."""

    def __init__(self, device: "torch.device") -> None:
        self._state: GpuState | None = None
        self._thread: threading.Thread | None = None
        if device.type == "cuda":
            self._thread = threading.Thread(target=self._read, args=(_uuid(device),), daemon=True)
            self._thread.start()

    def _read(self, uuid: str) -> None:
        time.sleep(STATE_AFTER_S)
        self._state = gpu_state.state_of(uuid)

    def read(self) -> GpuState | None:
        if self._thread is not None:
            self._thread.join()
        return self._state
