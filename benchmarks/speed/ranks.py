"""Measures what several ranks cost and save: communication, memory and speed.

    python -m benchmarks.speed.ranks CONFIG --set dial.depth=12 --ranks 1 2
    python -m benchmarks.speed.ranks CONFIG --set dial.depth=24 --ranks 2 8 --plan

The first table is computed by formula: exchanges a step (model/distributed/ranks.py), the bytes
that one rank sends, the memory that it holds for the whole run (optimizer states and gradients),
and its peak. A reduce-scatter or all-gather of n bytes over C ranks sends n (C - 1) / C from each
rank, an all-reduce twice that, as in the rings of NCCL and gloo; with in-network reduction it is
less. --plan ends here, and needs no GPU.

Then each number of ranks trains in turn, by torchrun, on the same global batch of random tokens:
ms a step, tokens/s, tokens/s a rank as a share of the first row's, peak memory of the largest rank,
and the counted exchanges, which must equal those of the formula.

With --profile each number of ranks then takes a few more steps under torch's profiler, and a second
table shows how long ranks exchange in a step, how much of that is hidden behind computation, and
how long computation waits for it (overlap.py): the mean over ranks, and the rank that waits most.

Exit code 0; 1 where a rank failed or the counts differ from the formula; 2 wrong usage.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.speed.overlap import Overlap, overlap_of, spans_of
from model.config import Config
from model.config.derive import Derived
from model.config.memory import MASTER_BYTES, TABLES, compute_bytes
from model.config.parameters import Parameter, parameters
from model.config.reader import parse_overrides
from model.config.resolve import resolve
from model.distributed.ranks import Exchange, Ranks, from_environment, join_group, leave_group
from model.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

SETTLING_STEPS = 10
PROFILED_STEPS = 4  # whole intervals of tables that step every second step
STATUS_BYTES = 5 * 8  # model/distributed/step_status.py: five numbers of fp64


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Exchanges of one step on one rank."""

    kind: str
    """scatter, gather or add."""
    bytes: int
    """Of the whole tensor."""


@dataclass(frozen=True, kw_only=True)
class CountedRanks(Ranks):
    """Ranks that keep a list of what they exchanged."""

    exchanged: list[Traffic] = field(default_factory=list)

    def scatter(self, whole: "Tensor", own: "Tensor") -> Exchange:
        self._count("scatter", whole)
        return super().scatter(whole, own)

    def gather(self, whole: "Tensor") -> Exchange:
        self._count("gather", whole)
        return super().gather(whole)

    def add(self, tensor: "Tensor") -> Exchange:
        self._count("add", tensor)
        return super().add(tensor)

    def _count(self, kind: str, tensor: "Tensor") -> None:
        if not self.alone:
            size = tensor.numel() * tensor.element_size()
            self.exchanged.append(Traffic(kind=kind, bytes=size))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints both tables; the module's docstring has the exit codes."""
    chosen = _parser().parse_args(argv)
    try:
        if chosen.worker is not None:
            return _work(chosen)
        plans = [_resolved(chosen, ranks) for ranks in chosen.ranks]
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(PLAN_HEADS, [plan_row(*plan) for plan in plans])
    if chosen.plan:
        return 0
    try:
        found = [_measured(chosen, ranks) for ranks in chosen.ranks]
    except subprocess.CalledProcessError as error:
        print(f"error: the ranks ended with exit code {error.returncode}", file=sys.stderr)
        return 1
    print(f"\n{found[0]['device']}, the same batch at every step, {chosen.steps} steps\n")
    print_table(FOUND_HEADS, found_rows(found))
    if chosen.profile:
        print(f"\n{PROFILED_STEPS} profiled steps\n")
        print_table(PROFILE_HEADS, [profile_row(each["profile"]) for each in found])
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for (config, derived), each in zip(plans, found, strict=True):
        if (foreseen := tally(traffic(config, derived))) != each["exchanges"]:
            counts = f"exchanges a step {foreseen}; got {each['exchanges']}"
            print(
                f"error: expected {counts}. Correct the formula in model/distributed/ranks.py.",
                file=sys.stderr,
            )
            return 1
    return 0


def traffic(config: Config, derived: Derived) -> Iterator[Traffic]:
    """The exchanges of a step that waits for no gradient, by the rules of model/optim."""
    if derived.ranks == 1:
        return
    stacks: dict[tuple[int, ...], int] = defaultdict(int)
    for parameter in parameters(config, derived.sizes):
        if parameter.label == "matrices" and config.optimizer.muon is not None:
            stacks[parameter.shape] += 1
        elif parameter.label != "embedding" or config.schedule.untie is None:  # tied at first
            yield from _of_adamw(parameter, config, derived.ranks)
    ranks = Ranks(count=derived.ranks)
    for shape, count in stacks.items():
        yield from _both_ways(ranks.padded(count) * prod(shape) * MASTER_BYTES)
    if config.optimizer.clip is not None:
        yield Traffic(kind="add", bytes=MASTER_BYTES)
    yield Traffic(kind="add", bytes=STATUS_BYTES)


def _of_adamw(parameter: Parameter, config: Config, ranks: int) -> Iterator[Traffic]:
    from model.optim.shard import SMALL_ELEMENTS

    number = compute_bytes(config) if parameter.label in TABLES else MASTER_BYTES
    size = parameter.count * number
    if parameter.shape[0] % ranks == 0 and parameter.count >= SMALL_ELEMENTS:
        yield from _both_ways(size)
    else:
        yield Traffic(kind="add", bytes=size)


def _both_ways(size: int) -> Iterator[Traffic]:
    yield Traffic(kind="scatter", bytes=size)
    yield Traffic(kind="gather", bytes=size)


def tally(exchanges: Iterator[Traffic] | Sequence[Traffic]) -> dict[str, list[int]]:
    """How many of each kind, and the bytes of their tensors together."""
    counts, sizes = Counter[str](), Counter[str]()
    for each in exchanges:
        counts[each.kind] += 1
        sizes[each.kind] += each.bytes
    return {kind: [counts[kind], sizes[kind]] for kind in sorted(counts)}


def sent_bytes(exchanges: Iterator[Traffic] | Sequence[Traffic], ranks: int) -> float:
    """What one rank sends in a ring."""
    whole = sum(each.bytes * (2 if each.kind == "add" else 1) for each in exchanges)
    return whole * (ranks - 1) / ranks


PLAN_HEADS = [
    "ranks",
    "rows x passes",
    "exchanges a step",
    "sent GB a step",
    "stays GB",
    "peak GB, torch's kernels",
    "fused kernels",
]


def plan_row(config: Config, derived: Derived) -> list[str]:
    """What one rank exchanges and keeps, by formula."""
    exchanges, parts = list(traffic(config, derived)), derived.memory_parts
    return [
        f"{derived.ranks}",
        f"{derived.device_batch_rows} x {derived.gradient_accumulation}",
        f"{len(exchanges)}",
        f"{sent_bytes(exchanges, derived.ranks) / 1e9:.3f}",
        f"{(parts['states'] + parts['gradients']) / 1e9:.2f}",
        f"{derived.memory_bytes / 1e9:.2f}",
        f"{derived.memory_fused_bytes / 1e9:.2f}",
    ]


FOUND_HEADS = ["ranks", "ms a step", "tokens/s", "of linear", "peak GB", "exchanges a step"]


def found_rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row a number of ranks; the first one is what the others are shares of."""
    first = found[0]["tokens_per_s"] / found[0]["ranks"]
    return [
        [
            f"{each['ranks']}",
            f"{1e3 * each['step_s']:,.2f}",
            f"{each['tokens_per_s']:,.0f}",
            f"{each['tokens_per_s'] / each['ranks'] / first:.1%}",
            f"{each['peak_memory_bytes'] / 1e9:.2f}",
            f"{sum(count for count, _ in each['exchanges'].values())}",
        ]
        for each in found
    ]


PROFILE_HEADS = [
    "ranks",
    "ms a step",
    "exchanging",
    "beside computation",
    "waiting",
    "of the step",
    "most",
    "idle",
]


def profile_row(profile: Sequence[dict[str, float]]) -> list[str]:
    """Means over ranks, and what the rank waits that waits most."""
    ranks = [Overlap(**each) for each in profile]
    step_s = fmean(rank.step_s for rank in ranks)
    exchange_s = fmean(rank.exchange_s for rank in ranks)
    waiting_s = fmean(rank.waiting_s for rank in ranks)
    beside = 1 - waiting_s / exchange_s if exchange_s else None
    return [
        f"{len(ranks)}",
        f"{1e3 * step_s:,.2f}",
        f"{1e3 * exchange_s:,.2f}",
        "none" if beside is None else f"{beside:.1%}",
        f"{1e3 * waiting_s:,.2f}",
        f"{waiting_s / step_s:.1%}",
        f"{1e3 * max(rank.waiting_s for rank in ranks):,.2f}",
        f"{1e3 * fmean(rank.idle_s for rank in ranks):,.2f}",
    ]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns flush right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))


def _measured(chosen: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """The report of rank 0 of this many ranks, started by torchrun."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        arguments = [str(chosen.base), f"--worker={out}", f"--steps={chosen.steps}"]
        arguments += [f"--set={each}" for each in chosen.set]
        arguments += ["--profile"] if chosen.profile else []
        command = [sys.executable, *launcher, "-m", "benchmarks.speed.ranks", *arguments]
        subprocess.run(command, check=True)
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def _work(chosen: argparse.Namespace) -> int:
    """One rank: builds, compiles, settles, takes the steps; rank 0 writes what it found."""
    from model.runtime import precompile, preflight
    from model.runtime.compilation import Compilation
    from model.runtime.environment import peak_memory_bytes
    from model.trainer import Trainer

    ranks = CountedRanks(**asdict(from_environment()))
    config, derived = _resolved(chosen, ranks.count)
    device = preflight.device_of(config, ranks)
    join_group(ranks, device)
    try:
        compilation = Compilation.start(config, device)
        kernels, derived = preflight.check(config, derived, device, ranks)
        precompile.start(config, derived.sizes, kernels, compilation.cache)
        trainer = Trainer(config, derived, device, ranks)
        if config.system.compile:
            compilation.warm_up(trainer.warm_up)
        times_s, exchanges = _timed_steps(trainer, ranks, chosen.steps)
        step_s = fmean(times_s)
        found = {
            "device": _name_of(device),
            "ranks": ranks.count,
            "step_s": step_s,
            "steps_s": times_s,
            "tokens_per_s": len(derived.rows(0)) * derived.sizes.context / step_s,
            "peak_memory_bytes": ranks.maximum(peak_memory_bytes(device)),
            "exchanges": exchanges,
        }
        if chosen.profile:
            found["profile"] = ranks.all_gather_object(asdict(_profiled_steps(trainer, ranks)))
        if ranks.rank == 0:
            chosen.worker.write_text(json.dumps(found), encoding="utf-8")
    finally:
        leave_group(ranks)
    return 0


def _timed_steps(
    trainer: Any, ranks: CountedRanks, steps: int
) -> tuple[list[float], dict[str, list[int]]]:
    """Seconds of each step after the settling ones, and the exchanges of one at which no gradient
    waits."""
    from model.distributed.step_status import StepStatus, StepStatusReduction
    from model.system.timing import Clock

    tokens, laps = _own_rows(trainer, ranks), []
    every = trainer.config.optimizer.table_interval_steps
    clock = Clock(trainer.device)
    for index in range(SETTLING_STEPS + steps):
        ranks.exchanged.clear()
        loss, _ = trainer.step(index % every, tokens)
        call = StepStatusReduction(ranks, loss, StepStatus())
        laps.append(clock.lap())
        if (index + 1) % every == 0:
            exchanges = tally(ranks.exchanged)
        if index:
            laps[-2].seconds()  # one step ahead of the GPU, as in training
    call.result()
    return [lap.seconds() for lap in laps[SETTLING_STEPS:]], exchanges


def _profiled_steps(trainer: Any, ranks: CountedRanks) -> Overlap:
    """What torch's profiler sees of some more steps on this rank."""
    import torch

    from model.distributed.step_status import StepStatus, StepStatusReduction

    tokens, every = _own_rows(trainer, ranks), trainer.config.optimizer.table_interval_steps
    on_gpu = trainer.device.type == "cuda"
    activities = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activities.CUDA if on_gpu else activities.CPU]) as seen:
        for index in range(PROFILED_STEPS):
            loss, _ = trainer.step(index % every, tokens)
            call = StepStatusReduction(ranks, loss, StepStatus())
        call.result()
    return overlap_of(list(spans_of(seen.events(), on_gpu=on_gpu)), PROFILED_STEPS)


def _own_rows(trainer: Any, ranks: Ranks) -> "Tensor":
    """This rank's rows of a batch that is the same however many ranks share it."""
    import torch

    config, derived = trainer.config, trainer.derived
    generator = torch.Generator().manual_seed(config.seed)
    shape = (len(derived.rows(0)), derived.sizes.context + 1)
    tokens = torch.randint(config.model.vocab_size, shape, generator=generator)
    return tokens[ranks.share(len(tokens))].to(trainer.device)


def _name_of(device: Any) -> str:
    if device.type != "cuda":
        return "CPU"
    import torch

    return torch.cuda.get_device_name(device)


def _resolved(chosen: argparse.Namespace, ranks: int) -> tuple[Config, Derived]:
    return resolve(str(chosen.base), parse_overrides(chosen.set), ranks)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.ranks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("base", type=Path, metavar="BASE", help="YAML or JSON")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of them")
    parser.add_argument("--steps", type=int, default=20, help="timed ones, behind the settling")
    parser.add_argument("--plan", action="store_true", help="the formulas alone")
    parser.add_argument("--profile", action="store_true", help="how much exchanges overlap")
    parser.add_argument("--out", type=Path, help="save what was measured as JSON")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
