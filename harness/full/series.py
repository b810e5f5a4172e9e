"""The proxies of a job, made: ordinary runs on one GPU each, recorded once, gone on with.

As many go on at once as the job has GPUs here; the largest first, so that no GPU is left waiting
for it at the end. After `plan`, before `foretell`.
"""

import queue
import threading
from collections.abc import Callable, Sequence

import msgspec

from harness.full.plan import Plan, ProxyPlan
from harness.record import Record
from harness.run import Stop
from harness.search.slots import Slots
from harness.store import Store
from harness.trainer import NativeTrainer


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a proxy; no record where it was stopped before it began."""

    proxy: ProxyPlan
    record: Record | None


def missing(plan: Plan, store: Store) -> list[ProxyPlan]:
    """The proxies without a completed record, the largest first."""
    todo = [proxy for proxy in plan.proxies if store.record(proxy.job.plan_id) is None]
    return sorted(todo, key=_size, reverse=True)


def recorded(plan: Plan, store: Store) -> list[Record]:
    """The completed records of the proxies, in the order of the file."""
    found = [store.record(proxy.job.plan_id) for proxy in plan.proxies]
    return [record for record in found if record is not None]


def _size(proxy: ProxyPlan) -> float:
    return float(proxy.job.derived.get("tokens") or 0)


def make(
    todo: Sequence[ProxyPlan],
    plan: Plan,
    store: Store,
    trainer: NativeTrainer,
    stop: Stop,
    ended: Callable[[Made], None],
) -> None:
    """Makes them, until it is told to stop; `ended` hears of each. Raises what a run raises."""
    there = len(trainer.machine().get("gpus") or [])
    gpus = [str(number) for number in range(min(plan.file.ranks, there))]
    slots = Slots(store, trainer, gpus if len(gpus) > 1 else [], 60 * plan.file.limits.hours)
    waiting: queue.SimpleQueue[ProxyPlan] = queue.SimpleQueue()
    for proxy in todo:
        waiting.put(proxy)
    _Crew(waiting, slots, stop, ended).work()


class _Crew:
    """A thread for each GPU; the first that fails ends the others behind their runs."""

    def __init__(
        self,
        waiting: "queue.SimpleQueue[ProxyPlan]",
        slots: Slots,
        stop: Stop,
        ended: Callable[[Made], None],
    ) -> None:
        self.waiting, self.slots, self.stop, self.ended = waiting, slots, stop, ended
        self.faults: list[BaseException] = []
        self._lock = threading.Lock()

    def work(self) -> None:
        threads = [threading.Thread(target=self._on, args=(name,)) for name in self.slots.names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.faults:
            raise self.faults[0]

    def _on(self, slot: str) -> None:
        while not self.stop and not self.faults:
            try:
                proxy = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                record, _ = self.slots.make(proxy.job, slot, self.stop)
            except Exception as fault:  # the thread's edge: told by the one that waits for it
                self.faults.append(fault)
                return
            with self._lock:
                self.ended(Made(proxy=proxy, record=record))
