"""The capabilities of this machine, and the environment of a run: `model.doctor` and
environment.json.

`environment_id` hashes what the speed depends on: GPU ids, driver and power limit, or the CPU's
model and cores.
"""

import contextlib
import platform
import time
from typing import Any

from model.config import Config, Model
from model.config.identity import kernel_versions, sha256_of_json
from model.config.kernel_eligibility import FUSED
from model.config.shapes import sizes_of
from model.distributed.ranks import Ranks
from model.system import nvidia_smi
from model.system.cpu import usable_cores

DENSE_BF16_FLOPS = {  # from NVIDIA's data sheets
    "H100 80GB HBM3": 989e12,
    "H100 SXM": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "RTX 4090": 165e12,
}


def machine_json() -> dict[str, Any]:
    """Python, torch, GPUs, CPU, and the attention back-ends and fused kernels that run here for the
    sizes of the reference recipe; torch may be missing."""
    machine: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": kernel_versions().get("torch"),
        "cuda": None,
        "gpus": [],
        "cpu": cpu_json(),
        "kernel_packages": kernel_versions(),
        "backends": {},
        "fused_kernels": {},
    }
    try:
        import torch
    except ImportError as error:
        machine["torch_error"] = str(error)
        return machine
    from model import attention, kernels
    from model.runtime.preflight import gpu_json

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine["cuda"] = torch.version.cuda if device.type == "cuda" else None
    machine["gpus"] = [
        {**gpu, **gpu_json(torch.device("cuda", index))} for index, gpu in enumerate(gpus_json())
    ]
    reference = Config(model=Model(head_width=128, bias=False))
    sizes = sizes_of(reference)
    for name in attention.BACKENDS:
        problem = attention.why_not(name, device, sizes.head_width, torch.bfloat16)
        machine["backends"][name] = _answer(problem)
    for place in FUSED:
        problem = kernels.why_not(place, reference, sizes, device)
        machine["fused_kernels"][place] = _answer(problem)
    machine["fused_kernels"]["fp8"] = _answer(kernels.why_no_scaled_mm(device))
    return machine


def _answer(problem: tuple[str, str] | None) -> dict[str, Any]:
    reason, hint = problem or (None, None)
    return {"runs": problem is None, "reason": reason, "hint": hint}


def environment_json(
    device: Any, *, precision: str, kernel_plan: dict[str, str], calibration_s: float
) -> dict[str, Any]:
    """environment.json of a run on `device`."""
    import torch

    gpus = gpus_json() if device.type == "cuda" else []
    versions = kernel_versions()
    return {
        "environment_id": environment_id(gpus),
        "gpus": gpus,
        "driver": nvidia_smi.driver_version() if gpus else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": versions.get("triton"),
        "kernel_packages": versions,
        "attention_backend": kernel_plan["attention"],
        "kernel_plan": kernel_plan,
        "precision": precision,
        "calibration": calibrate(device, precision, calibration_s),
        "cpu": {**cpu_json(), "threads": torch.get_num_threads()},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def of_all_ranks(environment: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """An environment with the GPUs of all ranks; each rank sees all GPUs of its machine."""
    if ranks.alone:
        return environment
    own = environment["gpus"][ranks.local : ranks.local + 1]
    gpus = [gpu for used in ranks.all_gather_object(own) for gpu in used]
    return {**environment, "gpus": gpus, "environment_id": environment_id(gpus, ranks.count)}


def environment_id(gpus: list[dict[str, Any]], ranks: int = 1) -> str:
    """16 hex digits of the hash of the GPUs (ids, driver, power limit), or of the CPU and the
    number of ranks that share it."""
    what: Any = cpu_json() if ranks == 1 else [cpu_json(), ranks]
    if gpus:
        what = [[gpu["uuid"], gpu["power_limit_w"]] for gpu in gpus], nvidia_smi.driver_version()
    return sha256_of_json(what)[:16]


def peak_flops(gpu_name: str) -> float | None:
    """Dense bf16 peak of a GPU by its name; null for an unknown GPU."""
    return next((flops for name, flops in DENSE_BF16_FLOPS.items() if name in gpu_name), None)


def calibrate(device: Any, precision: str, seconds: float) -> dict[str, float] | None:
    """Rates of a square matmul (TFLOP/s) and of a copy (GB/s, read plus write), half of the seconds
    each."""
    import torch

    if seconds <= 0:
        return None
    cuda = device.type == "cuda"
    side, dtype = (8192 if cuda else 1024), torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.empty(2**28 if cuda else 2**24, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    wait = torch.cuda.synchronize if cuda else lambda: None
    matmul_s = _seconds_each(lambda: a @ a, wait, seconds / 2)
    copy_s = _seconds_each(lambda: target.copy_(source), wait, seconds / 2)
    return {
        "matmul_tflops": round(2 * side**3 / matmul_s / 1e12, 4),
        "copy_gb_s": round(2 * 4 * source.numel() / copy_s / 1e9, 2),
    }


def _seconds_each(call: Any, wait: Any, seconds: float) -> float:
    call()
    wait()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or calls == 0:
        for _ in range(4):
            call()
        wait()
        calls += 4
    return (time.perf_counter() - start) / calls


def peak_memory_bytes(device: Any) -> int:
    """Peak memory allocated on a GPU; on a CPU, the peak resident set size."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux reports kB


def gpus_json() -> list[dict[str, Any]]:
    """Visible GPUs: name, uuid, memory, power limit."""
    import torch

    found = []
    limits = nvidia_smi.gpus("uuid,power.limit")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        uuid = f"GPU-{properties.uuid}"
        limit = next((float(row[1]) for row in limits if row[0] == uuid), None)
        found.append(
            {
                "name": properties.name,
                "uuid": uuid,
                "memory_bytes": properties.total_memory,
                "power_limit_w": limit,
            }
        )
    return found


def cpu_json() -> dict[str, Any]:
    """Model and cores of the CPU."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":")[1].strip() for line in file if "model name" in line), name)
    return {"name": name, "cores": usable_cores()}
