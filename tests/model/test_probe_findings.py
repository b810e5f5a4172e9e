"""The checks of a job's machines, from plain facts: mixed, throttled, slow, cut off, broken."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from model.diagnostics.finding import Finding, check
from model.diagnostics.probe import checks, gpu_state
from model.diagnostics.probe import topology as links
from model.diagnostics.probe.all_reduce import bus_gb_s
from model.diagnostics.probe.facts import Gpu, GpuState, Machine, SumTime, Work

H100 = Gpu(name="NVIDIA H100 80GB HBM3", uuid="GPU-0", memory_bytes=80 << 30, free_bytes=79 << 30)
VERSIONS = {"driver": "580.95", "cuda": "13.0", "nccl": "2.28.9", "torch": "2.13.0"}
AT_WORK = GpuState(
    power_limit_w=700.0,
    power_default_w=700.0,
    sm_clock_mhz=1755.0,
    sm_clock_max_mhz=1980.0,
    temperature_c=58.0,
    throttled=("sw_power_cap",),
)
BUSY = Work(matmul_tflops=720.0, copy_gb_s=2600.0, state=AT_WORK)
RANKS = 8
NV18 = [["X" if i == j else "NV18" for j in range(RANKS)] for i in range(RANKS)]


def healthy() -> dict[int, Machine]:
    return {
        rank: Machine(
            rank=rank,
            device="cuda",
            gpu=replace(H100, uuid=f"GPU-{rank}"),
            versions=VERSIONS,
            kernels={"attention": "flash4"},
            links=None if rank else NV18,
        )
        for rank in range(RANKS)
    }


def with_gpu(rank: int, **changes: object) -> dict[int, Machine]:
    seen = healthy()
    gpu = seen[rank].gpu
    assert gpu is not None
    return {**seen, rank: replace(seen[rank], gpu=replace(gpu, **changes))}  # type: ignore[arg-type]


def with_links(matrix: list[list[str]]) -> dict[int, Machine]:
    seen = healthy()
    return {**seen, 0: replace(seen[0], links=matrix)}


def at_work(rank: int, **changes: object) -> dict[int, Work]:
    worked = dict.fromkeys(range(RANKS), BUSY)
    return {**worked, rank: replace(BUSY, state=replace(AT_WORK, **changes))}  # type: ignore[arg-type]


def check_machines(seen: dict[int, Machine], device: str = "cuda") -> list[Finding]:
    return list(checks.check_machines(device, RANKS, seen))


def wrong(findings: list[Finding]) -> list[Finding]:
    assert all((finding.hint is None) == finding.ok for finding in findings)
    assert all((finding.severity == "info") == finding.ok for finding in findings)
    return [finding for finding in findings if not finding.ok]


def only(findings: list[Finding]) -> Finding:
    (found,) = wrong(findings)
    return found


def test_a_healthy_node_has_nothing_to_mend() -> None:
    assert wrong(check_machines(healthy())) == []
    assert wrong(list(checks.check_work(healthy(), dict.fromkeys(range(RANKS), BUSY)))) == []
    fast = SumTime(bytes=2**28, seconds=1.3e-3, bus_gb_s=361.0)
    assert wrong(list(checks.check_sums(NV18, 1, [fast], None))) == []


def test_another_model_stops_the_job_and_names_its_rank() -> None:
    found = only(check_machines(with_gpu(5, name="NVIDIA H200")))
    assert (found.what, found.severity) == ("GPU models", "error")
    assert found.got.endswith("NVIDIA H200 (rank 5)")


def test_two_ranks_on_one_gpu_stop_the_job() -> None:
    found = only(check_machines(with_gpu(3, uuid="GPU-2")))
    assert (found.what, found.severity) == ("GPU of each rank", "error")
    assert "2, 3" in found.got


def test_fewer_gpus_than_ranks_are_one_finding_for_all_ranks() -> None:
    fault = check(
        "GPU", ok=False, expected="a GPU for each of 8 ranks", got="4", hint="Lower them."
    )
    seen = {rank: Machine(rank=rank, findings=(fault,)) for rank in range(RANKS)}
    assert only(check_machines(seen)) == fault


def test_a_fault_of_some_ranks_names_them() -> None:
    fault = check("memory", ok=False, expected="about 69 GiB", got="8 GiB free", hint="Less.")
    seen = healthy()
    for rank in (2, 6):
        seen[rank] = replace(seen[rank], findings=(fault,))
    assert only(check_machines(seen)).got == "8 GiB free (rank 2, 6)"


def test_a_rank_that_does_not_respond_is_an_error() -> None:
    seen = healthy()
    del seen[7]
    found = only(check_machines(seen))
    assert (found.what, found.got, found.severity) == ("ranks", "none of rank 7", "error")


@pytest.mark.parametrize(
    ("changes", "severity"),
    [
        ({"uncorrected_errors": 2}, "warning"),
        ({"memory_waits": True}, "error"),
        ({"memory_failed": True}, "error"),
    ],
)
def test_failed_memory_stops_where_it_waits_to_be_replaced(
    changes: dict[str, object], severity: str
) -> None:
    found = only(check_machines(with_gpu(1, **changes)))
    assert (found.what, found.severity) == ("memory errors", severity)
    assert found.got.endswith("(rank 1)")


def test_one_gpu_on_pcie_where_the_others_have_nvlink_is_broken() -> None:
    cut = [[("SYS" if 4 in (i, j) and i != j else NV18[i][j]) for j in range(8)] for i in range(8)]
    found = only(check_machines(with_links(cut)))
    assert (found.what, found.severity) == ("links", "error")
    assert "PCIe alone at rank 4" in found.got


def test_bridged_pairs_and_pcie_everywhere_warn() -> None:
    pairs = [["NV12" if i // 2 == j // 2 else "SYS" for j in range(8)] for i in range(8)]
    pcie = [["PIX"] * 8 for _ in range(8)]
    for matrix in (pairs, pcie):
        assert only(check_machines(with_links(matrix))).severity == "warning"


def test_other_torch_or_nccl_on_a_node_stops_and_another_driver_warns() -> None:
    for name, severity in (("torch", "error"), ("nccl", "error"), ("driver", "warning")):
        seen = healthy()
        seen[7] = replace(seen[7], versions={**VERSIONS, name: "1.0"})
        found = only(check_machines(seen))
        assert (found.what, found.severity) == ("versions", severity)


def test_auto_that_took_another_kernel_on_one_rank_stops_the_job() -> None:
    seen = healthy()
    seen[2] = replace(seen[2], kernels={"attention": "flex"})
    found = only(check_machines(seen))
    assert (found.what, found.severity) == ("back-ends", "error")
    assert "attention flex (rank 2)" in found.got


def test_cpus_despite_a_driver_for_gpus_warn_unless_requested() -> None:
    seen = {rank: Machine(rank=rank, device="cpu", versions=VERSIONS) for rank in range(RANKS)}
    assert only(check_machines(seen, "auto")).what == "device"
    assert wrong(check_machines(seen, "cpu")) == []


@pytest.mark.parametrize(
    ("reason", "severity"),
    [("hw_thermal_slowdown", "error"), ("applications_clocks_setting", "warning")],
)
def test_a_throttled_gpu_is_found_and_its_power_limit_is_no_fault(
    reason: str, severity: str
) -> None:
    found = only(list(checks.check_work(healthy(), at_work(6, throttled=("sw_power_cap", reason)))))
    assert (found.what, found.severity) == ("throttling", severity)
    assert found.got == f"{reason} (rank 6)"


def test_a_clock_that_was_read_when_the_work_was_over_is_not_judged() -> None:
    idle = at_work(6, throttled=(), idle=True, sm_clock_mhz=345.0)
    assert wrong(list(checks.check_work(healthy(), idle))) == []


def test_a_lowered_power_limit_and_a_slow_clock_warn() -> None:
    lowered = only(list(checks.check_work(healthy(), at_work(1, power_limit_w=500.0))))
    assert (lowered.what, lowered.got) == ("power limits", "500 W of 700 (rank 1)")
    slow = only(list(checks.check_work(healthy(), at_work(1, sm_clock_mhz=1400.0))))
    assert (slow.what, slow.severity) == ("clocks", "warning")


def test_a_rank_more_than_five_per_cent_below_the_median_is_slow() -> None:
    worked = dict.fromkeys(range(RANKS), BUSY)
    assert (
        wrong(list(checks.check_work(healthy(), {**worked, 4: replace(BUSY, matmul_tflops=690)})))
        == []
    )
    found = only(
        list(checks.check_work(healthy(), {**worked, 4: replace(BUSY, matmul_tflops=680)}))
    )
    assert (found.what, found.severity) == ("products", "warning")
    assert found.got == "680 TFLOP/s, 6% less (rank 4)"


def test_a_gpu_that_fails_or_hangs_at_work_stops_the_job() -> None:
    worked = dict.fromkeys(range(RANKS), BUSY)
    failed = {**worked, 3: Work(problem="no end in 60 s")}
    del failed[5]
    found = only(list(checks.check_work(healthy(), failed)))
    assert (found.what, found.severity) == ("work", "error")
    assert "no answer (rank 5)" in found.got
    assert "no end in 60 s (rank 3)" in found.got


def test_a_sum_that_is_slow_for_its_links_warns_and_one_without_end_stops() -> None:
    slow = SumTime(bytes=2**28, seconds=1e-2, bus_gb_s=bus_gb_s(2**28, 1e-2, RANKS))
    found = only(list(checks.check_sums(NV18, 1, [slow], None)))
    assert (found.what, found.severity) == ("all-reduce", "warning")
    assert "at least 225 GB/s over NV18" in found.expected
    assert wrong(list(checks.check_sums(NV18, 2, [slow], None))) == []  # other links between nodes
    broken = only(list(checks.check_sums(NV18, 1, [], "no end in 120 s")))
    assert broken.severity == "error"


def test_bus_bandwidth_is_what_a_link_of_the_ring_carries() -> None:
    assert bus_gb_s(10**9, 1.0, 2) == pytest.approx(1.0)
    assert bus_gb_s(10**9, 1.0, 8) == pytest.approx(1.75)


def test_facts_come_back_from_the_board_as_they_were_left() -> None:
    fault = check("GPU", ok=False, expected="one", got="none", hint="Buy it.")
    seen = replace(healthy()[0], findings=(fault,))
    assert Machine.from_json(seen.to_json()) == seen
    assert Work.from_json(BUSY.to_json()) == BUSY
    assert Work.from_json(Work(problem="x").to_json()) == Work(problem="x")


def test_reasons_are_named_by_their_bits() -> None:
    row = ["700.00", "700.00", "1755", "1980", "58"]
    hot = gpu_state.state_from([*row, "0x0000000000000044"])
    assert hot.throttled == ("sw_power_cap", "hw_thermal_slowdown")
    idle = gpu_state.state_from([*row, "0x0000000000000001"])
    assert (idle.throttled, idle.idle) == ((), True)
    assert gpu_state.state_from([*row, "[N/A]"]).throttled is None


def test_what_a_driver_does_not_report_is_null() -> None:
    row = ["700.00", "[N/A]", "1755", "1980", "58", "0x0000000000000004"]
    assert gpu_state.state_from(row) == replace(AT_WORK, power_default_w=None)
    assert gpu_state.state_from(["No devices were found"]) == GpuState()


def test_an_older_driver_is_queried_by_the_older_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*clocks_event*) exit 2;;\n"
        "*clocks_throttle*) echo '700.00, 700.00, 1755, 1980, 58, 0x0000000000000004';;\n"
        "*retired*) echo '[N/A], No';;\n"
        "*remapped*) echo '1, 0';;\n"
        "esac\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpu_state.state_of("GPU-0") == AT_WORK
    assert gpu_state.memory_of("GPU-0") == (None, True, False)


TOPOLOGY = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV18\tSYS\tPIX\t0-51\t0\t\tN/A
GPU1\tNV18\t X \tNODE\tSYS\t0-51\t0\t\tN/A
GPU2\tSYS\tNODE\t X \tSYS\t52-103\t1\t\tN/A
NIC0\tPIX\tSYS\tSYS\t X

Legend:

  X    = Self
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def test_the_matrix_of_links_is_read_in_the_order_of_the_ranks() -> None:
    index_of = {"GPU-a": "2", "GPU-b": "0"}
    assert links.between(TOPOLOGY, index_of, ["GPU-a", "GPU-b"]) == [["X", "SYS"], ["SYS", "X"]]
    assert links.between(TOPOLOGY, index_of, ["GPU-a", "GPU-unknown"]) is None
    assert links.between("", index_of, ["GPU-a"]) is None
    assert (links.nvlinks("NV18"), links.nvlinks("NODE")) == (18, 0)
