"""The clock rate of a GPU's multiprocessors while it works, and what holds it down, sampled in a
thread.

A step time means little without it: a GPU that is hot or at its power limit runs slower, and two
configurations that draw different power run at different clocks. An idle GPU's clock says nothing,
so samples are taken during the work and only then. NVML answers inside the process (package
nvidia-ml-py); without it nvidia-smi is asked, seldom, because it is a process of its own, and for
the rate alone. `source` says which, `missing` why neither.
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

    def __init__(self, device: torch.device, *, ask_smi: bool = True) -> None:
        """Without `ask_smi` NVML alone is asked, because nothing else may run beside."""
        self.source: str | None = None
        self.missing: str | None = None
        self._read: Read = lambda: None
        self._read_reasons: Callable[[], int | None] = lambda: None
        self._every_s = NVML_EVERY_S
        if device.type != "cuda":
            self.missing = "the device is not a GPU"
        elif _answers(by_nvml := lambda: float(torch.cuda.clock_rate(device))):
            self.source, self._read = "nvml", by_nvml
            self._read_reasons = throttle.reader_of(_uuid_of(device))
        elif ask_smi and _answers(by_smi := lambda: _ask_smi(device)):
            self.source, self._read, self._every_s = "nvidia-smi", by_smi, SMI_EVERY_S
        else:
            self.missing = "neither NVML (pip install nvidia-ml-py) nor nvidia-smi tells it"

    @contextlib.contextmanager
    def sampling(self, every_s: float | None = None) -> Iterator["Samples"]:
        """Samples are taken until the block ends; null: as often as the source allows."""
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
        while not done.wait(every_s):  # the first one only when the GPU is at work
            samples.add(self._read(), self._read_reasons())


class Samples:
    """Clock rates of one stretch of work, and what held them down at any of its moments."""

    def __init__(self) -> None:
        self.mhz: list[float] = []
        self.reasons: int | None = None
        """Bits (model/system/throttle.py); null where nothing tells them."""
        self._lock = threading.Lock()

    def add(self, mhz: float | None, reasons: int | None) -> None:
        """One sample."""
        with self._lock:
            if mhz is not None:
                self.mhz.append(mhz)
            if reasons is not None:
                self.reasons = (self.reasons or 0) | reasons

    def take(self) -> tuple[float | None, int | None]:
        """Median rate and reasons up to now; the next samples begin anew."""
        with self._lock:
            told = self.median_mhz, self.reasons
            self.mhz, self.reasons = [], None
        return told

    @property
    def median_mhz(self) -> float | None:
        """Null where the work ended before the first sample, or nothing can be read."""
        return statistics.median(self.mhz) if self.mhz else None


def _answers(read: Read) -> bool:
    try:
        return read() is not None
    except Exception:  # NVML's own exception type exists only where NVML does
        return False


def _ask_smi(device: torch.device) -> float | None:
    words = ["--query-gpu=clocks.sm", "--format=csv,noheader,nounits", f"--id={_uuid_of(device)}"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, timeout=SMI_TIMEOUT_S
        )
        return float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _uuid_of(device: torch.device) -> str:
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
