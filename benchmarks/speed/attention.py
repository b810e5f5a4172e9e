"""Measures forward plus backward time of every attention back-end that runs on this GPU.

    python -m benchmarks.speed.attention [--out FILE] [--rounds N]

Shapes are those of the reference recipe at depth 12 and 24 (bf16, heads of 128 channels, T = 2048),
full and with short windows. Back-ends are interleaved within a round, so that a GPU that warms up
or slows down affects all of them; the figure is the median over all calls. TFLOP/s count the pairs
of query and key that the window leaves visible, 4 K FLOPs each forward and 2.5 times that backward.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model.attention import BACKENDS, Attend, why_not
from model.runtime.environment import environment_id, gpus_json, machine_json

CALLS_PER_TURN = 20
WARM_UP_CALLS = 5
FORWARD_FLOPS_PER_PAIR = 4  # times K: scores and weighted sum, a multiply and an add each
BACKWARD_OVER_FORWARD = 2.5  # five products of matrices where forward has two
DTYPE = torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One column of the table."""

    rows: int
    heads: int
    window_tokens: int
    context_tokens: int = 2048
    head_width: int = 128

    @property
    def label(self) -> str:
        full = self.window_tokens >= self.context_tokens
        return f"B{self.rows} H{self.heads} {'full' if full else self.window_tokens}"

    @property
    def flops(self) -> float:
        """FLOPs of forward and backward over the visible pairs."""
        visible = sum(min(i, self.window_tokens) + 1 for i in range(self.context_tokens))
        pairs = visible * self.rows * self.heads
        return pairs * self.head_width * FORWARD_FLOPS_PER_PAIR * (1 + BACKWARD_OVER_FORWARD)


SHAPES = [
    Shape(rows=32, heads=6, window_tokens=2048),
    Shape(rows=32, heads=6, window_tokens=768),
    Shape(rows=32, heads=6, window_tokens=512),
    Shape(rows=16, heads=12, window_tokens=2048),
    Shape(rows=16, heads=12, window_tokens=768),
    Shape(rows=16, heads=12, window_tokens=512),
]


def main() -> int:
    """0; 2 without a GPU; 1 where a back-end that should run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="save records and environment as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every back-end")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "expected a CUDA GPU; got none that torch can use. "
            "Check nvidia-smi and torch's CUDA build.",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    problems = {name: why_not(name, device, 128, DTYPE) for name in BACKENDS}
    running = [name for name, problem in problems.items() if problem is None]
    records = [record for shape in SHAPES for record in measure(shape, running, chosen.rounds)]
    print_table(records, running)
    for name, problem in problems.items():
        if problem is not None:
            print(f"{name} does not run here: {problem[0]}. {problem[1]}")
    failed = [record for record in records if record["error"]]
    for record in failed:
        print(f"{record['backend']} failed at {record['shape']}: {record['error']}")
    if chosen.out is not None:
        environment = {"environment_id": environment_id(gpus_json()), **machine_json()}
        text = json.dumps({"environment": environment, "records": records}, indent=1)
        chosen.out.write_text(text + "\n", encoding="utf-8")
    return 1 if failed else 0


def measure(shape: Shape, backends: list[str], rounds: int) -> list[dict[str, Any]]:
    """One record a back-end; one that fails keeps its error and leaves the others their turns."""
    size = (shape.rows, shape.context_tokens, shape.heads, shape.head_width)
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v, grad = (
        torch.randn(size, generator=generator, device="cuda", dtype=DTYPE) for _ in range(4)
    )
    inputs = [value.requires_grad_() for value in (q, k, v)]
    times_ms: dict[str, list[float]] = {name: [] for name in backends}
    errors: dict[str, str] = {}
    for turn in range(rounds + 1):  # the first turn compiles and is thrown away
        for name in backends:
            if name in errors:
                continue
            try:
                taken = one_turn(BACKENDS[name], inputs, grad, shape.window_tokens)
            except Exception as error:  # of any kind: kernels compile here
                errors[name] = f"{type(error).__name__}: {error}"
                continue
            if turn:
                times_ms[name] += taken
    return [record_of(shape, name, times_ms[name], errors.get(name)) for name in backends]


def one_turn(
    attend: Attend, inputs: list[torch.Tensor], grad: torch.Tensor, window: int
) -> list[float]:
    """Milliseconds of each of CALLS_PER_TURN forward and backward passes, queued back to back."""
    marks = []
    for call in range(WARM_UP_CALLS + CALLS_PER_TURN):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.autograd.grad(attend(*inputs, window), inputs, grad)
        end.record()
        if call >= WARM_UP_CALLS:
            marks.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in marks]


def record_of(shape: Shape, name: str, times_ms: list[float], error: str | None) -> dict[str, Any]:
    """What is kept of one cell of the table."""
    median_ms = None if error else statistics.median(times_ms)
    return {
        "backend": name,
        "shape": shape.label,
        **asdict(shape),
        "dtype": str(DTYPE),
        "calls": len(times_ms),
        "median_ms": median_ms,
        "fastest_ms": None if error else min(times_ms),
        "tflops": None if median_ms is None else shape.flops / median_ms / 1e9,
        "error": error,
    }


def print_table(records: list[dict[str, Any]], backends: list[str]) -> None:
    """Milliseconds and, in brackets, TFLOP/s; a row a back-end, a column a shape."""
    found = {(record["backend"], record["shape"]): record for record in records}
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, ms (TFLOP/s)\n")
    print(f"{'back-end':<10}" + "".join(f"{shape.label:>15}" for shape in SHAPES))
    for name in backends:
        print(f"{name:<10}" + "".join(f"{cell(found[name, s.label]):>15}" for s in SHAPES))
    print()


def cell(record: dict[str, Any]) -> str:
    """`1.59 (454)`."""
    if record["error"]:
        return "failed"
    return f"{record['median_ms']:.2f} ({record['tflops']:.0f})"


if __name__ == "__main__":
    sys.exit(main())
