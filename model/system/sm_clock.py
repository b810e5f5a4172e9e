"""Samples the clock rate of a GPU's multiprocessors, and the reasons that limit it, in a thread.

A step time needs the clock to be interpreted: a hot or power-limited GPU is slower, and two
configurations that draw different power run at different clocks. The clock of an idle GPU is
meaningless, so samples are taken during the work. NVML is read inside the process (package
nvidia-ml-py); without it nvidia-smi, a process for each sample, is read less often and for the rate
alone. `source` names the one in use, `missing` the reason for having neither.
"""

import contextlib
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator

import torch

from model.system import throttle

NVML_EVERY_S = 0.1
SMI_EVERY_S = 0.5
SMI_TIMEOUT_S = 5.0

Read = Callable[[], float | None]


class SmClock:
    """Reads one device's SM clock; `source` is `nvml`, `nvidia-smi`, or null with `missing`."""

    def __init__(self, device: torch.device, *, use_smi: bool = True) -> None:
        """Without `use_smi` only NVML is read, because a measurement excludes other processes."""
        self.source: str | None = None
        self.missing: str | None = None
        self._read: Read = lambda: None
        self._read_reasons: Callable[[], int | None] = lambda: None
        self._every_s = NVML_EVERY_S
        if device.type != "cuda":
            self.missing = "the device is not a GPU"
        elif _works(by_nvml := lambda: float(torch.cuda.clock_rate(device))):
            self.source, self._read = "nvml", by_nvml
            self._read_reasons = throttle.reader_of(_uuid_of(device))
        elif use_smi and _works(by_smi := lambda: _read_smi(device)):
            self.source, self._read, self._every_s = "nvidia-smi", by_smi, SMI_EVERY_S
        else:
            self.missing = "neither NVML (pip install nvidia-ml-py) nor nvidia-smi reports it"

    @contextlib.contextmanager
    def sampling(self, every_s: float | None = None) -> Iterator["Samples"]:
        """Take samples until the block ends; null for `every_s`: as often as the source allows."""
        samples = Samples()
        if self.source is None:
            yield samples
            return
        done = threading.Event()
        given = (samples, done, self._every_s if every_s is None else every_s)
        thread = threading.Thread(target=self._sample, args=given, daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            done.set()
            thread.join()

    def _sample(self, samples: "Samples", done: threading.Event, every_s: float) -> None:
        while not done.wait(every_s):  # waits before the first sample
            samples.add(self._read(), self._read_reasons())


class Samples:
    """Clock rates of a time span, and the reasons that limited the clock at any sample."""

    def __init__(self) -> None:
        self.mhz: list[float] = []
        self.reasons: int | None = None
        """Bits (model/system/throttle.py); null where they cannot be read."""
        self._lock = threading.Lock()

    def add(self, mhz: float | None, reasons: int | None) -> None:
        with self._lock:
            if mhz is not None:
                self.mhz.append(mhz)
            if reasons is not None:
                self.reasons = (self.reasons or 0) | reasons

    def take(self) -> tuple[float | None, int | None]:
        """Median rate and reasons since the last call."""
        with self._lock:
            taken = self.median_mhz, self.reasons
            self.mhz, self.reasons = [], None
        return taken

    @property
    def median_mhz(self) -> float | None:
        """Null without samples."""
        return statistics.median(self.mhz) if self.mhz else None


def _works(read: Read) -> bool:
    try:
        return read() is not None
    except Exception:  # NVML's own exception type exists only where NVML does
        return False


def _read_smi(device: torch.device) -> float | None:
    query = ["--query-gpu=clocks.sm", "--format=csv,noheader,nounits", f"--id={_uuid_of(device)}"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *query], capture_output=True, text=True, timeout=SMI_TIMEOUT_S
        )
        return float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _uuid_of(device: torch.device) -> str:
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
