"""Breaks the time of a training step on this GPU down by class of kernel.

    python -m benchmarks.speed.kernels ablations/configs/speedrun.yaml --set dial.depth=12

A trainer takes some steps on a random batch first, so that weights are no longer those of the
initialisation (zeros cost less power, and so less time); then one step is profiled. Kernels are
sorted into classes by name; unknown names are `other`. `--top N` also lists the N longest kernels.
Where the sum over kernels is below the time of the step, the GPU was idle for the difference.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.config.derive import derive
from model.config.reader import load_config, parse_overrides
from model.errors import ModelError
from model.kernels import kernel_plan
from model.runtime.compilation import Compilation
from model.runtime.environment import environment_id, gpus_json, machine_json
from model.runtime.preflight import check, device_of
from model.stepper import synthetic_tokens
from model.trainer import Trainer

STEPS_BEFORE = 5
CLASSES = (  # the first whose pattern is found in a kernel's name
    ("attention", r"flash|fmha|flex_attention|cudnn.*sdpa"),
    ("loss", r"_cross_entropy_row"),
    ("rotation and norm of q, k", r"_rotate_and_norm"),
    ("Muon, elementwise", r"^_update_momentum$|^_apply_update$"),
    ("products, quack", r"quack"),
    ("products, cuBLAS", r"nvjet|cublas|gemm|cutlass|xmma|splitKreduce"),
    ("Inductor", r"^triton_"),
    ("AdamW", r"multi_tensor_apply|FusedAdam"),
    ("adding up gradients", r"CUDAFunctor_add"),
    ("casts and copies", r"copy_kernel|direct_copy|Memcpy|CatArray"),
    ("filling", r"Memset|FillFunctor"),
)
OTHER = "other"


@dataclass(frozen=True)
class Kernel:
    """One kernel of the step, all its calls together."""

    name: str
    milliseconds: float
    calls: int


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 where the trainer cannot run; 2 wrong usage or no GPU."""
    chosen = _parser().parse_args(argv)
    if not torch.cuda.is_available():
        print(
            "expected a CUDA GPU; got none that torch can use. "
            "Check nvidia-smi and torch's CUDA build.",
            file=sys.stderr,
        )
        return 2
    try:
        record = profiled(chosen.base, parse_overrides(chosen.set))
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_table(record, chosen.top)
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def profiled(base: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Trains a few steps and profiles one; raises ModelError where the run would."""
    config = load_config(base, overrides)
    derived, device = derive(config), device_of(config)
    compilation = Compilation.start(config, device)
    check(config, derived, device)
    trainer = Trainer(config, derived, device)
    compilation.warm_up(trainer.warm_up)
    tokens = synthetic_tokens(config, derived, device)
    for _ in range(STEPS_BEFORE):
        trainer.step(0, tokens)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    trainer.step(0, tokens)
    end.record()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        trainer.step(0, tokens)
        torch.cuda.synchronize()
    kernels = [
        Kernel(event.key, event.self_device_time_total / 1e3, event.count)
        for event in seen.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    return {
        "environment": {"environment_id": environment_id(gpus_json()), **machine_json()},
        "base": str(base),
        "set": overrides,
        "kernel_plan": kernel_plan(config, trainer.kernels),
        "step_ms": start.elapsed_time(end),
        "classes": by_class(kernels),
        "kernels": [
            {"name": k.name, "ms": round(k.milliseconds, 4), "calls": k.calls}
            for k in sorted(kernels, key=lambda kernel: -kernel.milliseconds)
        ],
    }


def class_of(name: str) -> str:
    """The class of a kernel by its name."""
    return next((label for label, pattern in CLASSES if re.search(pattern, name)), OTHER)


def by_class(kernels: Iterable[Kernel]) -> dict[str, float]:
    """Milliseconds of each class, the largest first."""
    sums: dict[str, float] = {}
    for kernel in kernels:
        label = class_of(kernel.name)
        sums[label] = sums.get(label, 0.0) + kernel.milliseconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def print_table(record: dict[str, Any], top: int) -> None:
    """One row a class, then the longest kernels."""
    classes = record["classes"]
    whole = sum(classes.values())
    print(f"{torch.cuda.get_device_name()}, one step of {record['step_ms']:.1f} ms\n")
    print(f"{'class':<28}{'ms':>10}{'share':>9}")
    for label, milliseconds in classes.items():
        print(f"{label:<28}{milliseconds:>10.2f}{milliseconds / whole:>9.1%}")
    print(f"{'all kernels':<28}{whole:>10.2f}{1:>9.1%}")
    for kernel in record["kernels"][:top]:
        print(f"{kernel['ms']:>10.2f} ms {kernel['calls']:>5}  {kernel['name'][:90]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.kernels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("base", type=Path, metavar="BASE", help="YAML or JSON")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--top", type=int, default=0, help="also list the N longest kernels")
    parser.add_argument("--out", type=Path, help="save everything as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
