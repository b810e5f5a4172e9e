"""Runs jobs on the GPUs that a command may use: one at a time on each, or one at a time.

A job runs under its plan's lock, and only if no record answers for it; if another harness is
running it, `GpuPool.make` waits for that.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

from harness.errors import UsageError
from harness.results.record import Record
from harness.results.run_files import Progress
from harness.results.store import Store
from harness.runner.attempt import RunSpec, run_attempt
from harness.runner.process import Stop
from harness.runner.replicates import recorded_run
from harness.runner.trainer import NativeTrainer

HELD_POLL_S = 0.5
T = TypeVar("T")
R = TypeVar("R")


class GpuPool:
    """The GPUs that a command may use, by number; without any, one run at a time."""

    def __init__(
        self, store: Store, trainer: NativeTrainer, gpus: list[str], run_minutes: float
    ) -> None:
        self.store, self.trainer = store, trainer
        self.names = gpus or [""]
        self.timeout_s = 60 * run_minutes
        self.concurrent_runs = ConcurrentRuns()

    def make(
        self,
        job: RunSpec,
        slot: str,
        stop: Stop,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        rerun: bool = False,
    ) -> tuple[Record | None, bool]:
        """Returns (the record of a run, whether it ran now); None if stopped before it began.

        `rerun`: run it even if a record answers for it. Raises DiskError.
        """
        while (lock := self.store.lock_plan(job.plan_id)) is None:
            if stop:
                return None, False
            time.sleep(HELD_POLL_S)
        with lock:
            if stop:
                return None, False
            if not rerun and (recorded := recorded_run(self.store, job, ())) is not None:
                return recorded, False
            with self.concurrent_runs.joined(slot):
                made = run_attempt(
                    self.store,
                    self.trainer,
                    job,
                    timeout_s=self.timeout_s,
                    stop=stop,
                    environment=gpu_environment(slot),
                    on_progress=on_progress,
                    concurrent_runs=lambda: self.concurrent_runs.most(slot),
                )
            return made, True

    def spread(self, work: Callable[[T, str], R], items: Iterable[T]) -> list[R]:
        """work(item, GPU) of every item, in order; one at a time on each GPU.

        Once one raises, no further one starts.
        """
        free: SimpleQueue[str] = SimpleQueue()
        for name in self.names:
            free.put(name)
        failed = threading.Event()

        def on_free_gpu(item: T) -> R:
            gpu = free.get()
            try:
                if failed.is_set():
                    raise CancelledError
                return work(item, gpu)
            except BaseException:
                failed.set()
                raise
            finally:
                free.put(gpu)

        with ThreadPoolExecutor(len(self.names)) as threads:
            made = [threads.submit(on_free_gpu, item) for item in items]
        errors = [error for one in made if (error := one.exception()) is not None]
        for error in errors:
            if not isinstance(error, CancelledError):
                raise error
        return [one.result() for one in made]


def check_gpus(gpus: Sequence[str], trainer: NativeTrainer) -> None:
    """Raises UsageError if --gpus names a GPU that does not exist."""
    if not gpus:
        return
    count = len(trainer.machine().get("gpus") or [])
    absent = [gpu for gpu in gpus if int(gpu) >= count]
    if not absent:
        return
    if count == 0:
        got = f"{','.join(gpus)}, on a machine without a GPU"
        raise UsageError("--gpus", "no --gpus", got, "Omit it: runs then go one at a time.")
    expected = f"numbers below {count}, the number of GPUs of this machine"
    raise UsageError("--gpus", expected, ",".join(absent), "Name GPUs that exist.")


class ConcurrentRuns:
    """Counts, for each current run, the largest number of other runs at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._most: dict[str, int] = {}

    @contextmanager
    def joined(self, slot: str) -> Iterator[None]:
        """Counts a run on `slot` for the duration of the context."""
        with self._lock:
            self._most[slot] = 0
            others = len(self._most) - 1
            for name, most in self._most.items():
                self._most[name] = max(most, others)
        try:
            yield
        finally:
            with self._lock:
                del self._most[slot]

    def most(self, slot: str) -> int:
        """The largest number of other runs since the run on `slot` began."""
        with self._lock:
            return self._most[slot]


def gpu_environment(slot: str) -> Mapping[str, str] | None:
    """The variables of a run on one GPU, beside those of every trainer; None for no GPU."""
    return {"CUDA_VISIBLE_DEVICES": slot} if slot else None
