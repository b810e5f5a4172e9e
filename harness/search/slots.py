"""Where the runs of a search are made: one at a time on each GPU, or one at a time.

A run is made under its plan's lock and only where no record answers for it already; what another
harness is making is waited for. After plan.py, before everything that runs.
"""

import time
from collections.abc import Callable

from harness.attempt import Job, attempt
from harness.record import Record
from harness.replicates import known
from harness.run import Progress, Stop
from harness.store import Store
from harness.study import HELD_POLL_S, Neighbours, slot_environment
from harness.trainer import NativeTrainer


class Slots:
    """The GPUs that a command may use, by number; none named: one run at a time, as is."""

    def __init__(
        self, store: Store, trainer: NativeTrainer, gpus: list[str], run_minutes: float
    ) -> None:
        self.store, self.trainer = store, trainer
        self.names = gpus or [""]
        self.timeout_s = 60 * run_minutes
        self.neighbours = Neighbours()

    def make(
        self,
        job: Job,
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
            if not anew and (found := known(self.store, job, ())) is not None:
                return found, False
            with self.neighbours.joined(slot):
                made = attempt(
                    self.store,
                    self.trainer,
                    job,
                    timeout_s=self.timeout_s,
                    stop=stop,
                    environment=slot_environment(slot),
                    on_progress=on_progress,
                    neighbours=lambda: self.neighbours.most(slot),
                )
            return made, True
