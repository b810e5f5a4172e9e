"""Checks the facts of all ranks against each other and against those of a healthy machine.

A job is as fast as its slowest rank, and a throttled, slow or disconnected GPU is not visible in
its output. Faults that invalidate the job's numbers (two GPU models, a wrong sum) are errors;
faults that slow it down are warnings with their cost. Pure functions from facts to findings; a
finding names the ranks that differ.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import median_high
from typing import Any

from model.diagnostics.finding import Finding, Severity, check, info
from model.diagnostics.probe.facts import Gpu, GpuState, Machine, SumTime, Work
from model.diagnostics.probe.topology import NVLINK_GB_S, nvlinks

SLOWER = 0.05  # below the median by more; the noise of a calibration is a tenth of it
LEAST_LINK_SHARE = 0.5  # a large sum on a healthy machine reaches this share of NVLink's rate
# reasons for a low clock that are faults, unlike the power limit
FAULTS = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
SET_BY_USER = ("applications_clocks_setting", "display_clocks_setting")
GIB = 2**30


def check_machines(
    wanted_device: str, count: int, seen: Mapping[int, Machine]
) -> Iterator[Finding]:
    """The first round: which ranks responded, and the devices of each."""
    yield _check_ranks(count, seen)
    yield from _local_findings(seen)
    gpus = {rank: each.gpu for rank, each in seen.items() if each.gpu is not None}
    if gpus:
        yield _one_model(gpus)
        yield _one_each(gpus)
        yield _healthy_memory(gpus)
        yield from _links(seen)
    elif any(each.device == "cpu" for each in seen.values()):
        yield _on_cpus(wanted_device, seen)
    yield from _same_software(seen)


def check_work(seen: Mapping[int, Machine], worked: Mapping[int, Work]) -> Iterator[Finding]:
    """The second round: rates of all ranks, and the state of their GPUs. Rates of CPUs are not
    compared, because ranks share them."""
    broken = {rank: each.problem for rank, each in worked.items() if each.problem is not None}
    silent = {rank: "no answer" for rank, each in seen.items() if each.device is not None}
    lost = {rank: why for rank, why in silent.items() if rank not in worked} | broken
    if lost:
        yield check(
            "work",
            ok=False,
            expected="all ranks to multiply and copy",
            got=by_rank(lost, seen),
            hint="Look for Xid lines in dmesg and for errors in nvidia-smi -q; reset the GPU, or "
            "use another machine.",
        )
    done = {rank: each for rank, each in worked.items() if each.problem is None}
    states = {rank: each.state for rank, each in done.items() if each.state is not None}
    for what, unit, of in _RATES:
        rates = {rank: value for rank, each in done.items() if (value := of(each)) is not None}
        if rates:
            yield _check_rates(what, rates, unit, compare=bool(states))
    if states:
        yield from _states(states)


def check_sums(
    links: Sequence[Sequence[str]] | None,
    nodes: int,
    sums: Sequence[SumTime],
    problem: str | None,
) -> Iterator[Finding]:
    """The third round: all-reduce over all ranks; `problem` is the reason of an early end."""
    if problem is not None:
        yield check(
            "all-reduce",
            ok=False,
            expected="ranks that sum tensors of every size",
            got=problem,
            hint="Re-run it with NCCL_DEBUG=INFO to find the ranks; check nvidia-smi topo "
            "-m, nvidia-smi nvlink -s and dmesg, and exclude the GPU or node that fails.",
        )
        return
    if not sums:
        return
    largest = max(sums, key=lambda each: each.bytes)
    got = f"{largest.bus_gb_s:.3g} GB/s at {largest.bytes / 2**20:,.3g} MiB"
    width = _width(links) if nodes == 1 else 0
    if not width:
        yield info("all-reduce", expected="a right sum over all ranks", got=got)
        return
    rate = LEAST_LINK_SHARE * NVLINK_GB_S * width
    yield check(
        "all-reduce",
        ok=largest.bus_gb_s >= rate,
        expected=f"at least {rate:,.0f} GB/s over NV{width}, half of what its links carry",
        got=got,
        hint="Set NCCL_DEBUG=INFO to see the path that NCCL uses, check nvidia-smi nvlink -s, and "
        "unset variables that disable NVLink (NCCL_P2P_DISABLE).",
        otherwise="warning",
    )


def by_rank(values: Mapping[int, str], among: Collection[int]) -> str:
    """Values with their ranks; a value that all ranks in `among` share has none."""
    ranks_of: dict[str, list[int]] = {}
    for rank, value in sorted(values.items()):
        ranks_of.setdefault(value, []).append(rank)
    if len(ranks_of) == 1 and len(values) == len(among):
        return next(iter(ranks_of))
    return "; ".join(f"{value} (rank {_listed(ranks)})" for value, ranks in ranks_of.items())


def _check_ranks(count: int, seen: Mapping[int, Machine]) -> Finding:
    missing = [rank for rank in range(count) if rank not in seen]
    return check(
        "ranks",
        ok=not missing,
        expected=f"answers of {count} ranks",
        got=f"none of rank {_listed(missing)}" if missing else f"{count}",
        hint="Read torchrun's output for its end; if it hangs, check its GPU and its node.",
    )


def _local_findings(seen: Mapping[int, Machine]) -> Iterator[Finding]:
    """Findings of single ranks; equal ones are merged."""
    alike: dict[Finding, dict[int, str]] = {}
    for rank, each in seen.items():
        for finding in each.findings:
            alike.setdefault(replace(finding, got=""), {})[rank] = finding.got
    for finding, got in alike.items():
        yield replace(finding, got=by_rank(got, seen))


def _one_model(gpus: Mapping[int, Gpu]) -> Finding:
    return _check_equal(
        "GPU models",
        {rank: gpu.name for rank, gpu in gpus.items()},
        expected="one model on all ranks",
        hint="Use GPUs of one model, with CUDA_VISIBLE_DEVICES or on another node: a job waits "
        "for its slowest GPU.",
    )


def _one_each(gpus: Mapping[int, Gpu]) -> Finding:
    ranks_of: dict[str, list[int]] = {}
    for rank, gpu in gpus.items():
        ranks_of.setdefault(gpu.uuid, []).append(rank)
    shared = [ranks for ranks in ranks_of.values() if len(ranks) > 1]
    return check(
        "GPU of each rank",
        ok=not shared,
        expected=f"{len(gpus)} GPUs",
        got=f"ranks {_listed(shared[0])} on one" if shared else f"{len(ranks_of)}",
        hint="Start one rank a GPU; check CUDA_VISIBLE_DEVICES of each rank.",
    )


def _healthy_memory(gpus: Mapping[int, Gpu]) -> Finding:
    """Uncorrected errors may be from an earlier run; memory that waits for replacement is not."""
    found, waits = {}, False
    for rank, gpu in gpus.items():
        if gpu.memory_failed:
            found[rank] = "failed memory that cannot be replaced"
        elif gpu.memory_waits:
            found[rank] = "failed memory that waits for a reset"
        elif gpu.uncorrected_errors:
            found[rank] = f"{gpu.uncorrected_errors} uncorrected errors since the driver was loaded"
        waits = waits or gpu.memory_failed or gpu.memory_waits
    return check(
        "memory errors",
        ok=not found,
        expected="none that were not corrected",
        got=by_rank(found, gpus) if found else "none",
        hint="Reset the GPU (nvidia-smi --gpu-reset) if permitted, or use another machine.",
        otherwise="error" if waits else "warning",
    )


def _links(seen: Mapping[int, Machine]) -> Iterator[Finding]:
    for rank, each in sorted(seen.items()):
        if each.links is not None:
            yield _link_finding(each.links, rank)


def _link_finding(links: Sequence[Sequence[str]], first_rank: int) -> Finding:
    pairs = {(i, j): links[i][j] for i, j in combinations(range(len(links)), 2)}
    kinds = sorted(set(pairs.values()))
    width = _width(links)
    linked = {gpu for pair, link in pairs.items() if nvlinks(link) for gpu in pair}
    cut_off = [first_rank + gpu for gpu in range(len(links)) if gpu not in linked]
    broken = bool(linked and cut_off)  # bridges join pairs of GPUs, but leave none out
    where = f"; PCIe alone at rank {_listed(cut_off)}" if broken else ""
    return check(
        "links",
        ok=width > 0,
        expected="the same NVLinks between all GPUs",
        got=f"{', '.join(kinds)} between {len(links)} GPUs{where}",
        hint="Check nvidia-smi nvlink -s and the fabric manager; use another machine, or "
        "expect steps to wait for PCIe.",
        otherwise="error" if broken else "warning",
    )


def _width(links: Sequence[Sequence[str]] | None) -> int:
    """NVLinks between any two GPUs if all pairs have as many, else 0."""
    if links is None:
        return 0
    widths = {nvlinks(links[i][j]) for i, j in combinations(range(len(links)), 2)}
    return widths.pop() if len(widths) == 1 else 0


def _on_cpus(wanted_device: str, seen: Mapping[int, Machine]) -> Finding:
    """`auto` selects a CPU where torch sees no GPU, even on a machine with GPUs."""
    drivers = {(each.versions or {}).get("driver") for each in seen.values()} - {None}
    return check(
        "device",
        ok=wanted_device == "cpu" or not drivers,
        expected=f"system.device: {wanted_device}",
        got=f"{len(seen)} ranks on CPUs" + (", despite a driver for GPUs" if drivers else ""),
        hint="Install a CUDA build of torch that fits the driver, check CUDA_VISIBLE_DEVICES, "
        "or set system.device: cpu.",
        otherwise="warning",
    )


def _same_software(seen: Mapping[int, Machine]) -> Iterator[Finding]:
    versions = {rank: each.versions for rank, each in seen.items() if each.versions is not None}
    if versions:
        apart: Severity = "error" if _differ(versions, ("torch", "nccl")) else "warning"
        yield _check_equal(
            "versions",
            {rank: _text(each) for rank, each in versions.items()},
            expected="one driver, CUDA, NCCL and torch on all ranks",
            hint="Install the same versions on all nodes.",
            otherwise=apart,
        )
    kernels = {rank: _text(each.kernels) for rank, each in seen.items() if each.kernels is not None}
    if kernels:
        yield _check_equal(
            "back-ends",
            kernels,
            expected="the same kernels on all ranks",
            hint="Install the same kernel packages on all nodes, or set one back-end instead of "
            "auto.",
        )


def _states(states: Mapping[int, GpuState]) -> Iterator[Finding]:
    busy = {rank: state for rank, state in states.items() if not state.idle}
    yield _power(states)
    yield _throttled(busy)
    clocks = {r: s.sm_clock_mhz for r, s in busy.items() if s.sm_clock_mhz is not None}
    if clocks:
        yield _check_rates("clocks", clocks, "MHz", compare=True)
    heat = {r: s.temperature_c for r, s in states.items() if s.temperature_c is not None}
    if heat:
        yield info("heat", expected="no GPU that slows down for it", got=_range(heat, "°C"))


def _power(states: Mapping[int, GpuState]) -> Finding:
    """A lowered power limit on one rank slows down every step."""
    limits = {r: s.power_limit_w for r, s in states.items() if s.power_limit_w is not None}
    lowered = {
        rank: f"{limit:g} W of {usual:g}"
        for rank, limit in limits.items()
        if (usual := states[rank].power_default_w) is not None and limit < usual
    }
    ok = bool(limits) and not lowered and len(set(limits.values())) == 1
    got = by_rank(lowered or {rank: f"{limit:g} W" for rank, limit in limits.items()}, states)
    return check(
        "power limits",
        ok=ok,
        expected="the model's own limit on all ranks",
        got=got or "not reported by the driver",
        hint="Ask the machine's administrator to reset it (nvidia-smi -pl), or record the lower "
        "limit with the result.",
        otherwise="warning",
    )


def _throttled(states: Mapping[int, GpuState]) -> Finding:
    reasons_of = {
        rank: " and ".join(reasons)
        for rank, state in states.items()
        if (reasons := [r for r in state.throttled or () if r in FAULTS + SET_BY_USER])
    }
    known = any(state.throttled is not None for state in states.values())
    no_reason = "none" if known else "not reported by the driver at work"
    faulty = any(reason in why for why in reasons_of.values() for reason in FAULTS)
    return check(
        "throttling",
        ok=known and not reasons_of,
        expected="clocks that only the power limit reduces",
        got=by_rank(reasons_of, states) if reasons_of else no_reason,
        hint="Let it cool or use another machine: a job waits for its slowest GPU. Reset clocks "
        "that the user set with nvidia-smi -rac and -rgc.",
        otherwise="error" if faulty else "warning",
    )


_RATES: tuple[tuple[str, str, Callable[[Work], float | None]], ...] = (
    ("products", "TFLOP/s", lambda worked: worked.matmul_tflops),
    ("copies", "GB/s", lambda worked: worked.copy_gb_s),
)


def _check_rates(what: str, rates: Mapping[int, float], unit: str, *, compare: bool) -> Finding:
    middle = median_high(rates.values())
    slow = {
        rank: f"{rate:,.4g} {unit}, {1 - rate / middle:.0%} less"
        for rank, rate in rates.items()
        if rate < (1 - SLOWER) * middle
    }
    expected = f"{middle:,.4g} {unit} on all ranks"
    if not compare:
        return info(what, expected=f"some {unit} of each rank", got=_range(rates, unit))
    return check(
        what,
        ok=not slow,
        expected=f"{expected}, none more than {SLOWER:.0%} slower",
        got=by_rank(slow, rates) if slow else _range(rates, unit),
        hint="A job waits for its slowest rank: check that GPU's heat, power and other processes, "
        "or use another machine.",
        otherwise="warning",
    )


def _check_equal(
    what: str,
    values: Mapping[int, str],
    *,
    expected: str,
    hint: str,
    otherwise: Severity = "error",
) -> Finding:
    return check(
        what,
        ok=len(set(values.values())) == 1,
        expected=expected,
        got=by_rank(values, values),
        hint=hint,
        otherwise=otherwise,
    )


def _differ(values: Mapping[int, Mapping[str, Any]], names: Sequence[str]) -> bool:
    return len({tuple(each.get(name) for name in names) for each in values.values()}) > 1


def _text(values: Mapping[str, Any] | None) -> str:
    known = [(name, value) for name, value in (values or {}).items() if value is not None]
    return ", ".join(f"{name} {value}" for name, value in known)


def _range(values: Mapping[int, float], unit: str) -> str:
    least, most = min(values.values()), max(values.values())
    between = f"{least:,.4g}" if least == most else f"{least:,.4g} to {most:,.4g}"
    return f"{between} {unit}"


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))
