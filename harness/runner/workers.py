"""Where the runs of a search are made: one at a time on each GPU, or one at a time.

A run is made under its plan's lock and only where no record answers for it already; what another
harness is making is waited for. After plan.py, before everything that runs.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from harness.errors import UsageError
from harness.results.record import Record
from harness.results.run_files import Progress
from harness.results.store import Store
from harness.runner.attempt import RunSpec, run_attempt
from harness.runner.process import Stop
from harness.runner.replicates import recorded_run
from harness.runner.trainer import NativeTrainer


class GpuPool:
    """The GPUs that a command may use, by number; none named: one run at a time, as is."""

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
        anew: bool = False,
    ) -> tuple[Record | None, bool]:
        """(the record of a run, whether it was made now); None where it was stopped before.

        `anew`: make it although a record answers for it. Raises DiskError.
        """
        while (lock := self.store.lock_plan(job.plan_id)) is None:
            if stop:
                return None, False
            time.sleep(HELD_POLL_S)
        with lock:
            if stop:
                return None, False
            if not anew and (found := recorded_run(self.store, job, ())) is not None:
                return found, False
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


def check_gpus(asked: Sequence[str], trainer: NativeTrainer) -> None:
    """Raises UsageError where --gpus names one that is not there."""
    if not asked:
        return
    there = len(trainer.machine().get("gpus") or [])
    absent = [gpu for gpu in asked if int(gpu) >= there]
    if absent:
        raise UsageError(
            "--gpus",
            f"numbers below {there}, the GPUs of this machine" if there else "no --gpus",
            ",".join(absent) if there else f"{','.join(asked)}, on a machine without a GPU",
            "Name those there are." if there else "Leave it out: runs go one at a time.",
        )


HELD_POLL_S = 0.5


class ConcurrentRuns:
    """Counts, for each run at work, the most others that ran at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._most: dict[str, int] = {}

    @contextmanager
    def joined(self, slot: str) -> Iterator[None]:
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
        with self._lock:
            return self._most[slot]


def gpu_environment(slot: str) -> Mapping[str, str] | None:
    """The environment of a run on one GPU; None (as it is) where no GPU was named."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": slot} if slot else None
