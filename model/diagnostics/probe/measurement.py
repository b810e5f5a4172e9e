"""One rank looks at its machine, and then puts its GPU to work.

The look is that of every run before it starts (model/runtime/preflight.py), with the kernels that
would really run, and beside it what the driver knows of the GPU's memory and of the links. At work
means the calibration of every run (model/runtime/environment.py) on all ranks at once: GPUs that
share power and air are measured as they will be used."""

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from model.config import Config
from model.config.derive import Derived, with_rows
from model.config.memory import memory_of
from model.diagnostics.finding import Finding, judged, of_error, told
from model.diagnostics.probe import gpu_state
from model.diagnostics.probe import topology as links
from model.diagnostics.probe.facts import Gpu, Seen, State, Worked
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
# by then clock and power have settled, and the products go on: they take half of the time
STATE_AFTER_S = 1.5


def look(config: Config, derived: Derived, ranks: Ranks) -> "tuple[Seen, torch.device | None]":
    """What this rank has to run on; whatever keeps it off is a finding. Raises nothing."""
    node = ranks.rank // ranks.local_count
    try:
        device = device_of(config, ranks)
        if device.type == "cuda":
            return _look_at_gpu(config, derived, ranks, device), device
        return _look_at_cpu(config, derived, ranks), device
    except MachineError as error:
        found = of_error(SUBJECTS.get(error.path, "kernels"), error)
        return Seen(rank=ranks.rank, node=node, findings=(found,)), None
    except Exception as error:  # what CUDA raises is of no class that could be named before
        return Seen(rank=ranks.rank, node=node, findings=(failed(error),)), None


def failed(error: Exception) -> Finding:
    """A GPU that could not be asked, or could not work."""
    failure = classify(error)
    return judged(
        "GPU",
        ok=False,
        expected="one that answers and works",
        got=failure.reason,
        hint=failure.hint or IN_THE_GPU,
    )


def work(config: Config, device: "torch.device") -> Worked:
    """Rates of this rank, and the state of its GPU in the middle of the work; a failure is in
    `problem`."""
    from model.runtime.environment import calibrate

    try:
        _take(device)
        state = _StateAtWork(device)
        rates = calibrate(device, config.system.precision, WORK_S[device.type])
    except Exception as error:  # as above
        return Worked(problem=classify(error).reason)
    assert rates is not None
    return Worked(
        matmul_tflops=rates["matmul_tflops"], copy_gb_s=rates["copy_gb_s"], state=state.read()
    )


def _look_at_cpu(config: Config, derived: Derived, ranks: Ranks) -> Seen:
    import torch

    from model.kernels import choose, kernel_plan
    from model.runtime.environment import cpu_json

    kernels = choose(config, derived.sizes, torch.device("cpu"))
    return Seen(
        rank=ranks.rank,
        node=ranks.rank // ranks.local_count,
        device="cpu",
        cpu={**cpu_json(), "threads": torch.get_num_threads()},
        versions=_versions(),
        kernels=kernel_plan(config, kernels),
    )


def _look_at_gpu(config: Config, derived: Derived, ranks: Ranks, device: "torch.device") -> Seen:
    from model.kernels import kernel_plan

    facts = settled_facts(config, device)  # before this process has memory on it
    _take(device)
    kernels, found = _judged(config, derived, facts, device)
    uuid = _uuid(device)
    errors, waits, broken = gpu_state.memory_of(uuid)
    return Seen(
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


def _judged(
    config: Config, derived: Derived, facts: GpuFacts, device: "torch.device"
) -> "tuple[Kernels | None, list[Finding]]":
    """The kernels that a run would take, and what keeps it off this GPU, in the order of a run."""
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
        yield of_error(SUBJECTS[fault.path], fault)


def _memory_fits(config: Config, derived: Derived, facts: GpuFacts, kernels: "Kernels") -> Finding:
    counts, rows = derived.parameters, derived.device_batch_rows
    needed = memory_of(config, derived.sizes, counts, rows, kernels.fused, derived.ranks).peak
    free = f"{facts.free_bytes / 2**30:.1f} GiB free of {facts.total_bytes / 2**30:.1f}"
    return told("memory", expected=f"about {needed / 2**30:.1f} GiB", got=free)


def _links(ranks: Ranks) -> list[list[str]] | None:
    import torch

    index_of = {row[1]: row[0] for row in nvidia_smi.gpus("index,uuid") if len(row) == 2}
    uuids = [_uuid(torch.device("cuda", index)) for index in range(ranks.local_count)]
    return links.between(nvidia_smi.topology(), index_of, uuids)


def _take(device: "torch.device") -> None:
    """Makes a rank's GPU the one that this thread waits for; alone there is only one to take."""
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
    """Asks the driver once, a little after now."""

    def __init__(self, device: "torch.device") -> None:
        self._state: State | None = None
        self._thread: threading.Thread | None = None
        if device.type == "cuda":
            self._thread = threading.Thread(target=self._ask, args=(_uuid(device),), daemon=True)
            self._thread.start()

    def _ask(self, uuid: str) -> None:
        time.sleep(STATE_AFTER_S)
        self._state = gpu_state.state_of(uuid)

    def read(self) -> State | None:
        """The answer, waited for; null on a CPU."""
        if self._thread is not None:
            self._thread.join()
        return self._state
