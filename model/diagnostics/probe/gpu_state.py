"""Clocks, power, temperature and memory errors of a GPU, from nvidia-smi.

Clock and reasons are meaningful only while the GPU works. The bits are those of
model/system/throttle.py, and one for an idle GPU. An unknown field fails the whole query, so a
renamed field is tried under both names.
"""

from model.diagnostics.probe.facts import GpuState
from model.system import nvidia_smi
from model.system.throttle import reasons_in

IDLE = 0x1  # nvmlClocksEventReasonGpuIdle
ALWAYS = "power.limit,power.default_limit,clocks.sm,clocks.max.sm,temperature.gpu"
ACTIVE = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # before driver 535
ERRORS = "ecc.errors.uncorrected.volatile.total,retired_pages.pending"


def state_of(uuid: str) -> GpuState:
    """The current state of one GPU; empty where the driver does not respond."""
    for reasons in ACTIVE:
        rows = nvidia_smi.gpus(f"{ALWAYS},{reasons}", uuid)
        if rows:
            return state_from(rows[0])
    return GpuState()


def state_from(row: list[str]) -> GpuState:
    """A row of the query; `[N/A]` and the like are null."""
    if len(row) != len(ALWAYS.split(",")) + 1:
        return GpuState()
    limit, default, clock, most, heat = map(_number, row[:-1])
    bits = bits_of(row[-1])
    return GpuState(
        power_limit_w=limit,
        power_default_w=default,
        sm_clock_mhz=clock,
        sm_clock_max_mhz=most,
        temperature_c=heat,
        throttled=None if bits is None else tuple(reasons_in(bits)),
        idle=bits is not None and bool(bits & IDLE),
    )


def bits_of(mask: str) -> int | None:
    """The bits of a mask such as 0x0000000000000004."""
    try:
        return int(mask, 16)
    except ValueError:
        return None


def memory_of(uuid: str) -> tuple[int | None, bool, bool]:
    """Uncorrected errors, whether memory waits for a reset, whether replacing it failed."""
    errors, retired, pending, failed = None, False, False, False
    for row in nvidia_smi.gpus(ERRORS, uuid):
        errors = int(row[0]) if row[0].isdigit() else None
        retired = _yes(row[-1])
    for row in nvidia_smi.remapped_rows(uuid):
        pending, failed = _yes(row[0]), _yes(row[-1])
    return errors, retired or pending, failed


def _yes(cell: str) -> bool:
    return cell.lower() in ("yes", "1", "true")


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
