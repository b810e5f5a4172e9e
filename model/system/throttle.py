"""What holds a GPU's clocks down, as NVML tells it.

A driver names its reasons in one number, a bit each (nvml.h, "clocks event reasons"); the words
here are those of `nvidia-smi --query-gpu=clocks_event_reasons.*`. Some are no fault: a GPU at full
work runs into its power limit (`sw_power_cap`), and an idle one needs no clock, which is no reason
here. Heat, a power brake and `hw_slowdown` are faults of the machine. No torch.
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
    """Their names, in the order of the bits."""
    return [name for bit, name in REASONS.items() if bits & bit]


def reader_of(uuid: str) -> Callable[[], int | None]:
    """Reads the bits of the GPU `GPU-...`; null where NVML (nvidia-ml-py) is not there or does not
    tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        read = next(getattr(pynvml, name) for name in NAMES if hasattr(pynvml, name))
        int(read(handle))
    except Exception:  # NVML's own exception type exists only where NVML does
        return lambda: None
    return lambda: _answer(read, handle)


def _answer(read: Callable[[object], int], handle: object) -> int | None:
    """A GPU that falls off the bus in the middle of a run is told of by the run."""
    try:
        return int(read(handle))
    except Exception:
        return None
