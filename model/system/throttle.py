"""The reasons that limit a GPU's clocks, from NVML.

A driver reports its reasons in one number, a bit each (nvml.h, "clocks event reasons"); the names
are those of `nvidia-smi --query-gpu=clocks_event_reasons.*`. Some are no fault: a busy GPU reaches
its power limit (`sw_power_cap`). Idleness is not listed. Heat, a power brake and `hw_slowdown` are
faults of the machine. No torch.
"""

from collections.abc import Callable

REASONS = {
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clocks_setting",
}

# nvidia-ml-py 12.535 renamed it
NAMES = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


def reasons_in(bits: int) -> list[str]:
    """The names of the set bits, in their order."""
    return [name for bit, name in REASONS.items() if bits & bit]


def reader_of(uuid: str) -> Callable[[], int | None]:
    """A function that reads the bits of the GPU `GPU-...`; it returns null without NVML
    (nvidia-ml-py)."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        read = next(getattr(pynvml, name) for name in NAMES if hasattr(pynvml, name))
        int(read(handle))
    except Exception:  # NVML's own exception type exists only where NVML does
        return lambda: None
    return lambda: _read(read, handle)


def _read(read: Callable[[object], int], handle: object) -> int | None:
    """The bits, or null; a GPU that fails during a run is reported by the run."""
    try:
        return int(read(handle))
    except Exception:
        return None
