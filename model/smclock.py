"""The clock rate of a GPU's multiprocessors while it works, sampled in a thread.

A step time means little without it: a GPU that is hot or at its power limit runs slower, and two
configurations that draw different power run at different clocks. An idle GPU's clock says nothing,
so samples are taken during the work and only then. NVML answers inside the process (package
nvidia-ml-py); without it nvidia-smi is asked, seldom, because it is a process of its own. `source`
says which, `missing` why neither.
"""

import contextlib
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator

import torch

NVML_EVERY_S = 0.1
SMI_EVERY_S = 0.5
SMI_TIMEOUT_S = 5.0

Read = Callable[[], float | None]


class SmClock:
    """Reads one device's SM clock; `source` is `nvml`, `nvidia-smi`, or null with `missing`."""

    def __init__(self, device: torch.device) -> None:
        self.source: str | None = None
        self.missing: str | None = None
        self._read: Read = lambda: None
        self._every_s = NVML_EVERY_S
        if device.type != "cuda":
            self.missing = "the device is not a GPU"
        elif _answers(by_nvml := lambda: float(torch.cuda.clock_rate(device))):
            self.source, self._read = "nvml", by_nvml
        elif _answers(by_smi := lambda: _ask_smi(device)):
            self.source, self._read, self._every_s = "nvidia-smi", by_smi, SMI_EVERY_S
        else:
            self.missing = "neither NVML (pip install nvidia-ml-py) nor nvidia-smi tells it"

    @contextlib.contextmanager
    def sampling(self) -> Iterator["Samples"]:
        """Samples are taken until the block ends."""
        samples = Samples()
        if self.source is None:
            yield samples
            return
        done = threading.Event()
        thread = threading.Thread(target=self._sample, args=(samples, done), daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            done.set()
            thread.join()

    def _sample(self, samples: "Samples", done: threading.Event) -> None:
        while not done.wait(self._every_s):  # the first one only when the GPU is at work
            value = self._read()
            if value is not None:
                samples.mhz.append(value)


class Samples:
    """Clock rates of one stretch of work."""

    def __init__(self) -> None:
        self.mhz: list[float] = []

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
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = ["--query-gpu=clocks.sm", "--format=csv,noheader,nounits", f"--id={uuid}"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *query], capture_output=True, text=True, timeout=SMI_TIMEOUT_S
        )
        return float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
