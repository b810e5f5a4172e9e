"""The GPUs of this machine as the driver reports them, before a process uses one.

The checks are those of every run (model/runtime/preflight.py): age, other processes, memory; here
minutes earlier, from nvidia-smi without torch. Only GPUs that ranks will use are checked. A machine
without a driver may only submit the job, which is a warning; `model.doctor --probe` checks the
job's own machine.
"""

import os
from collections.abc import Iterator, Sequence

from model.config import Config
from model.config.derive import Derived, with_rows
from model.config.kernel_eligibility import eligible_kernels
from model.diagnostics.finding import Finding, check, from_error, info
from model.runtime.preflight import SUBJECTS, GpuFacts, faults, fitting_rows
from model.system import nvidia_smi

MIB = 2**20
QUERY = "index,uuid,name,compute_cap,memory.total,memory.free"


def visible(config: Config) -> list[GpuFacts]:
    """The GPUs available to ranks; none for a job on the CPU."""
    if config.system.device == "cpu":
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    rows = [row for row in nvidia_smi.gpus(QUERY) if row[-1].isdigit() and row[-2].isdigit()]
    if chosen is not None:
        by_name = {name: row for row in rows for name in row[:2]}
        rows = [by_name[name] for name in chosen.split(",") if name in by_name]
    processes = nvidia_smi.compute_processes() if rows else []
    return [
        GpuFacts(
            name=name,
            capability=_capability(capability),
            built_for=(),
            total_bytes=int(total) * MIB,
            free_bytes=int(free) * MIB,
            processes=tuple(process for process in processes if process.gpu_uuid == uuid),
        )
        for _, uuid, name, capability, total, free in rows
    ]


def findings(
    config: Config, derived: Derived, gpus: Sequence[GpuFacts], ranks_here: int
) -> Iterator[Finding]:
    """The number of GPUs for `ranks_here`, and the faults of each."""
    if not gpus:
        yield _none(config, derived)
        return
    yield check(
        "GPUs",
        ok=len(gpus) >= ranks_here,
        expected=f"a GPU for each of {ranks_here} ranks on this machine",
        got=f"{len(gpus)} ({', '.join(sorted({gpu.name for gpu in gpus}))})",
        hint="Ask for fewer ranks, widen CUDA_VISIBLE_DEVICES, or use a machine with more.",
    )
    taken = gpus[:ranks_here]
    found = {fault.path: fault for gpu in taken for fault in faults(gpu, config, None)}
    for path, fault in found.items():
        yield from_error(SUBJECTS[path], fault)
    yield _memory(config, derived, min(taken, key=lambda gpu: gpu.free_bytes))


def _memory(config: Config, derived: Derived, gpu: GpuFacts) -> Finding:
    """The memory of the fullest GPU, with every fused kernel that the configuration allows;
    `model.doctor --probe` checks with those that run on the machine."""
    fused = eligible_kernels(config, derived.sizes)
    if config.system.fit_memory:
        derived = with_rows(config, derived, fitting_rows(config, derived, gpu.free_bytes, fused))
    for fault in faults(gpu, config, derived, fused):
        if SUBJECTS[fault.path] == "memory":
            return from_error("memory", fault)
    expected = f"about {estimate(derived)} a rank"
    free = f"{gpu.free_bytes / 2**30:.1f} GiB free on {gpu.name}"
    return info("memory", expected=expected, got=free)


def _none(config: Config, derived: Derived) -> Finding:
    expected = f"about {estimate(derived)} a rank"
    if config.system.device == "cpu":
        return info("memory", expected=expected, got="a CPU, for which there is no estimate")
    return check(
        "GPUs",
        ok=config.system.device == "auto",
        expected=f"GPUs with {expected}",
        got="none that an NVIDIA driver on this machine reports",
        hint="Run model.doctor --probe on the job's machine, or set system.device: cpu.",
        otherwise="warning",
    )


def estimate(derived: Derived) -> str:
    """Peak memory of a rank with fused kernels, and without."""
    with_fused, without = derived.memory_fused_bytes / 2**30, derived.memory_bytes / 2**30
    return f"{with_fused:.1f} GiB (with torch's own kernels {without:.1f})"


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)
