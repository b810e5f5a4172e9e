"""Checks a GPU before a run: the wrong GPU, one in use, or too little memory.

A run that fails after data, build and compilation has cost minutes of a rented machine, and a speed
that is measured beside another process is wrong. `facts_of` reads a GPU, and `faults` checks it: a
pure function of facts, configuration and memory estimate. `model.doctor` and `harness doctor` show
the same faults. `model.system.failure` covers failures during the run.

Processes on a GPU are listed before this process has memory on it: inside a container the driver
reports other process ids than the container's, and the run would find itself.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from model.config import Config
from model.config.derive import Derived, largest_fitting_rows, with_rows
from model.config.memory import memory_of
from model.distributed.ranks import ALONE, Ranks
from model.errors import MachineError
from model.system.failure import is_out_of_memory
from model.system.nvidia_smi import GpuProcess, compute_processes, driver_version

if TYPE_CHECKING:
    import torch

    from model.kernels import Kernels

T = TypeVar("T")
GIB = 2**30
BF16_CAPABILITY = (8, 0)  # Ampere: the first with bf16 in its tensor cores
TRITON_CAPABILITY = (7, 0)  # Volta: the first that Triton, and so torch.compile, writes code for
# memory in use without a visible process (another container's): more than an idle driver and this
# process's CUDA context, which are below 1 GiB each
UNNAMED_BYTES = 2 * GIB
# the estimate was within 6 % of measurements; a run is refused only far beyond that
ESTIMATE_MARGIN = 1.15
# share of free memory for chosen rows: leaves 6 %, and what the allocator cannot use
FILLED_SHARE = 0.9
# the subject of a fault, by its field
SUBJECTS = {
    "system.device": "GPU",
    "system.compile": "compilation",
    "system.precision": "precision",
    "system.share_gpu": "other processes",
    "system.device_batch_rows": "memory",
    "system.attention": "attention back-end",
}
SETTLE_S = 10.0  # the memory of a killed process is freed within seconds


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """The state of a GPU before a run."""

    name: str
    capability: tuple[int, int]
    built_for: tuple[str, ...]
    """Architectures for which this torch has code, such as sm_90; empty: unknown."""
    total_bytes: int
    free_bytes: int
    processes: tuple[GpuProcess, ...]
    """Other processes that use it, as far as the driver reports them."""


def device_of(config: Config, ranks: Ranks = ALONE) -> "torch.device":
    """The configured device of this rank; raises MachineError where it is missing."""
    import torch

    from model.system.cpu import usable_cores

    wanted = config.system.device
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise no_gpu(torch.version.cuda, driver_version())
    if wanted == "cuda" or (wanted == "auto" and available):
        return _gpu_of(ranks)
    cores = max(1, usable_cores() // ranks.local_count)
    torch.set_num_threads(config.system.threads or cores)
    return torch.device("cpu")


def _gpu_of(ranks: Ranks) -> "torch.device":
    import torch

    if ranks.alone:
        return torch.device("cuda")
    if ranks.local_count > torch.cuda.device_count():
        raise MachineError(
            path="system.device",
            expected=f"a GPU for each of {ranks.local_count} ranks",
            got=f"{torch.cuda.device_count()}",
            hint="Lower --nproc-per-node, or widen CUDA_VISIBLE_DEVICES.",
        )
    return torch.device("cuda", ranks.local)


def no_gpu(torch_cuda: str | None, driver: str | None) -> MachineError:
    """The reason why torch sees no GPU: its build, its driver, or that there is none."""
    if driver is None:
        got = "no NVIDIA driver that responds (nvidia-smi)"
        hint = "Install or repair the driver, or set system.device: cpu."
    elif torch_cuda is None:
        got = "a torch that is built without CUDA"
        hint = "Install a CUDA build of torch, or set system.device: cpu."
    else:
        got = f"none that torch for CUDA {torch_cuda} can use with driver {driver}"
        hint = (
            "Check CUDA_VISIBLE_DEVICES and nvidia-smi, and that the driver is new enough for "
            "this CUDA; or set system.device: cpu."
        )
    return MachineError(path="system.device", expected="a CUDA GPU", got=got, hint=hint)


def check(
    config: Config, derived: Derived, device: "torch.device", ranks: Ranks = ALONE
) -> "tuple[Kernels, Derived]":
    """The kernels that will run, and the rows a pass, fewer with `system.fit_memory`; raises
    MachineError with the first fault of a GPU.

    Waits briefly for a GPU that another process has just left. A CPU has no faults. All ranks must
    call it, and use the rows that fit on each of them.
    """
    from model.kernels import choose

    if device.type != "cuda":
        return choose(config, derived.sizes, device), derived
    facts = settled_facts(config, device)
    for fault in faults(facts, config, None):
        raise fault
    kernels = choose(config, derived.sizes, device)
    if config.system.fit_memory:
        fitting = fitting_rows(config, derived, facts.free_bytes, kernels.fused)
        derived = with_rows(config, derived, round(-ranks.maximum(-fitting)))
    for fault in faults(facts, config, derived, kernels.fused):
        raise fault
    return kernels, derived


def settled_facts(config: Config, device: "torch.device") -> GpuFacts:
    """Read a GPU, after waiting briefly for another process to free it."""
    wait_s = 0.0 if config.system.share_gpu else SETTLE_S
    processes = wait_while(bool, lambda: processes_on(device), wait_s)
    return wait_while(in_use, lambda: facts_of(device, processes), 0.0 if processes else wait_s)


def fitting_rows(
    config: Config, derived: Derived, free_bytes: int, fused: Collection[str] = ()
) -> int:
    """The rows a pass, or their largest divisor that fits; one where none does."""
    return largest_fitting_rows(config, derived, int(FILLED_SHARE * free_bytes), fused) or 1


def gpu_json(device: "torch.device") -> dict[str, Any]:
    """Facts of a GPU for `model.doctor`, and its faults for a run of default settings, without
    memory."""
    facts = facts_of(device, processes_on(device))
    return {
        "capability": _dotted(facts.capability),
        "free_bytes": facts.free_bytes,
        "processes": [process.described() for process in facts.processes],
        "faults": [fault.as_json() for fault in faults(facts, Config(), None)],
    }


def faults(
    facts: GpuFacts, config: Config, derived: Derived | None, fused: Collection[str] = ()
) -> Iterator[MachineError]:
    """The faults of this GPU for a run; memory is checked only with `derived`.

    `fused` names the operations with a fused kernel, which needs less memory.
    """
    yield from _capability(facts, config)
    if not config.system.share_gpu:
        yield from _other_processes(facts)
    if derived is not None:
        yield from _memory(facts, config, derived, fused)


def facts_of(device: "torch.device", processes: Sequence[GpuProcess]) -> GpuFacts:
    """Read a GPU; creates this process's CUDA context on it."""
    import torch

    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # too little memory is free for a CUDA context
        free, total = 0, torch.cuda.get_device_properties(device).total_memory
    return GpuFacts(
        name=torch.cuda.get_device_name(device),
        capability=torch.cuda.get_device_capability(device),
        built_for=tuple(torch.cuda.get_arch_list()),
        total_bytes=total,
        free_bytes=free,
        processes=tuple(processes),
    )


def processes_on(device: "torch.device") -> list[GpuProcess]:
    """Other processes that use this GPU; reads properties only, which creates no CUDA context."""
    import torch

    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return [p for p in compute_processes() if p.gpu_uuid == uuid and p.pid != os.getpid()]


def wait_while(busy: Callable[[T], bool], read: Callable[[], T], wait_s: float) -> T:
    """Read until `busy` is false, or for `wait_s`; returns the last reading."""
    deadline = time.monotonic() + wait_s
    value = read()
    while busy(value) and time.monotonic() < deadline:
        time.sleep(0.2)
        value = read()
    return value


def in_use(facts: GpuFacts) -> bool:
    """Whether others use the GPU or its memory."""
    return bool(facts.processes) or facts.total_bytes - facts.free_bytes > UNNAMED_BYTES


def _capability(facts: GpuFacts, config: Config) -> Iterator[MachineError]:
    has = f"{facts.name} of {_dotted(facts.capability)}"
    if facts.built_for and not has_code_for(facts.capability, facts.built_for):
        yield MachineError(
            path="system.device",
            expected=f"a GPU that this torch has code for ({', '.join(facts.built_for)})",
            got=has,
            hint="Install a build of torch for this GPU, or set system.device: cpu.",
        )
    elif config.system.compile and facts.capability < TRITON_CAPABILITY:
        yield MachineError(
            path="system.compile",
            expected=f"compute capability {_dotted(TRITON_CAPABILITY)} or later for torch.compile",
            got=has,
            hint="Set system.compile: false, or use a newer GPU.",
        )
    if config.system.precision == "bf16" and facts.capability < BF16_CAPABILITY:
        yield MachineError(
            path="system.precision",
            expected=f"compute capability {_dotted(BF16_CAPABILITY)} or later for bf16",
            got=has,
            hint="Set system.precision: fp32, or use an Ampere GPU or a newer one.",
        )


def _other_processes(facts: GpuFacts) -> Iterator[MachineError]:
    if not in_use(facts):
        return
    if facts.processes:
        got = "; ".join(process.described() for process in facts.processes)
        hint = "End them"
    else:
        taken = _gib(facts.total_bytes - facts.free_bytes)
        got = f"{taken} of its {_gib(facts.total_bytes)} in use by processes not visible here"
        hint = "End the process that uses it (another container or user?)"
    yield MachineError(
        path="system.share_gpu",
        expected=f"{facts.name} without other processes, because they change the measured speed",
        got=got,
        hint=f"{hint}, choose another GPU with CUDA_VISIBLE_DEVICES, or set "
        "system.share_gpu: true and compare losses only.",
    )


def _memory(
    facts: GpuFacts, config: Config, derived: Derived, fused: Collection[str]
) -> Iterator[MachineError]:
    rows = derived.device_batch_rows
    needed = memory_of(config, derived.sizes, derived.parameters, rows, fused, derived.ranks).peak
    if needed <= ESTIMATE_MARGIN * facts.free_bytes:
        return
    fitting = largest_fitting_rows(config, derived, facts.free_bytes, fused)
    hint = "Not even one row a pass fits: lower dial.depth, or use a GPU with more memory."
    if fitting is not None:
        hint = (
            f"Set system.device_batch_rows: {fitting}; the batch stays the same, in more passes. "
            "Or set system.fit_memory: true."
        )
    yield MachineError(
        path="system.device_batch_rows",
        expected=f"a run of about {_gib(needed)} to fit into the memory of {facts.name}",
        got=f"{_gib(facts.free_bytes)} free of {_gib(facts.total_bytes)}",
        hint=hint,
    )


def has_code_for(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether a build with these architectures runs: it has machine code of the same generation and
    not newer, or PTX (compute_NN) that is not newer, which the driver compiles."""
    for architecture in built_for:
        kind, _, digits = architecture.partition("_")
        number = "".join(filter(str.isdigit, digits))
        wanted = int(number[:-1]), int(number[-1])
        if kind == "compute" and wanted <= capability:
            return True
        if kind == "sm" and wanted[0] == capability[0] and wanted <= capability:
            return True
    return False


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
