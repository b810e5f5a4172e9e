"""How much of the communication between ranks overlaps computation, and how long it is exposed.

Takes what torch's profiler saw of some steps of one rank, sorted into spans of two kinds:
exchanges (NCCL kernels on a GPU, gloo works on a CPU) and computation (every other kernel or
operator). Each moment between the start of the first span and the end of the last is one of:

    computation alone | both: the exchange is hidden | an exchange alone: computation waits for it
    | neither: launches, Python, the loader

The duration of an exchange includes the wait for the other ranks, because an NCCL kernel runs
meanwhile; a rank that is faster than the others therefore shows longer exchanges.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Interval = tuple[float, float]

NCCL_KERNEL = "ncclDevKernel"
GLOO_WORK = "gloo:"
C10D_CALL = "c10d::"  # hands a work over, which is no computation


@dataclass(frozen=True, kw_only=True)
class Span:
    """One kernel, work or operator."""

    start_us: float
    end_us: float
    exchanges: bool
    """Or it computes."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Means of a step on one rank; a profiled one, which may be longer than others."""

    step_s: float
    exchange_s: float
    beside_s: float
    """Of `exchange_s`: computation went on."""
    idle_s: float
    """Neither an exchange nor computation."""

    @property
    def waiting_s(self) -> float:
        """Of `exchange_s`: computation stood waiting."""
        return self.exchange_s - self.beside_s


def overlap_of(spans: Sequence[Span], steps: int) -> Overlap:
    """The overlap in spans of this many steps."""
    exchanging = merged(each for each in spans if each.exchanges)
    computing = merged(each for each in spans if not each.exchanges)
    window_us = max(each.end_us for each in spans) - min(each.start_us for each in spans)
    exchange_us, beside_us = length(exchanging), length(common(exchanging, computing))
    idle_us = window_us - exchange_us - length(computing) + beside_us
    return Overlap(
        step_s=window_us / steps / 1e6,
        exchange_s=exchange_us / steps / 1e6,
        beside_s=beside_us / steps / 1e6,
        idle_s=idle_us / steps / 1e6,
    )


def merged(spans: Iterable[Span]) -> list[Interval]:
    """The times at which at least one of them ran, in order and apart from each other."""
    found: list[Interval] = []
    for start, end in sorted((each.start_us, each.end_us) for each in spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def common(one: Sequence[Interval], two: Sequence[Interval]) -> Iterator[Interval]:
    """The times that are in both."""
    first = second = 0
    while first < len(one) and second < len(two):
        start = max(one[first][0], two[second][0])
        end = min(one[first][1], two[second][1])
        if start < end:
            yield start, end
        if one[first][1] < two[second][1]:
            first += 1
        else:
            second += 1


def length(intervals: Iterable[Interval]) -> float:
    """Of all together."""
    return sum(end - start for start, end in intervals)


def spans_of(events: Iterable[Any], *, on_gpu: bool) -> Iterator[Span]:
    """The spans among the events of a `torch.profiler.profile`: those of the GPU, or of the CPU."""
    for event in events:
        if event.device_type.name != ("CUDA" if on_gpu else "CPU"):
            continue
        exchanges = event.name.startswith((NCCL_KERNEL, GLOO_WORK))
        # what is marked with a name spans others: a step, an optimizer, a call of NCCL
        if not exchanges and (event.is_user_annotation or event.name.startswith(C10D_CALL)):
            continue
        times = event.time_range
        yield Span(start_us=times.start, end_us=times.end, exchanges=exchanges)
