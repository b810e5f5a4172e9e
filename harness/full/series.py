"""The proxies of a job, made: ordinary runs on one GPU each, recorded once, gone on with.

As many go on at once as the job has GPUs here; the largest first, so that no GPU is left waiting
for it at the end. After `plan`, before `foretell`.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from harness.full.plan import JobPlan, ProxyPlan
from harness.results.record import Record
from harness.results.store import Store
from harness.runner.process import Stop
from harness.runner.replicates import recorded_run
from harness.runner.trainer import NativeTrainer
from harness.runner.workers import GpuPool


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a proxy; no record where it was stopped before it began."""

    proxy: ProxyPlan
    record: Record | None


def missing(plan: JobPlan, store: Store) -> list[ProxyPlan]:
    """The proxies without an answer, the largest first."""
    todo = [proxy for proxy in plan.proxies if recorded_run(store, proxy.job, ()) is None]
    return sorted(todo, key=_size, reverse=True)


def hopeless(plan: JobPlan, store: Store) -> list[Made]:
    """The proxies whose answer is no completed run: they would end so again."""
    answers = [Made(proxy=one, record=recorded_run(store, one.job, ())) for one in plan.proxies]
    return [one for one in answers if one.record and one.record.status != "completed"]


def visible(count: int) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def recorded(plan: JobPlan, store: Store) -> list[Record]:
    """The completed records of the proxies, in the order of the file."""
    found = [store.record(proxy.job.plan_id) for proxy in plan.proxies]
    return [record for record in found if record is not None]


def _size(proxy: ProxyPlan) -> float:
    return float(proxy.job.derived.get("tokens") or 0)


def make(
    todo: Sequence[ProxyPlan],
    plan: JobPlan,
    store: Store,
    trainer: NativeTrainer,
    stop: Stop,
    ended: Callable[[Made], None],
) -> None:
    """Makes them, until it is told to stop; `ended` hears of each. Raises what a run raises."""
    gpus = visible(len(trainer.machine().get("gpus") or []))[: plan.file.ranks]
    slots = GpuPool(store, trainer, gpus if len(gpus) > 1 else [], 60 * plan.file.limits.hours)
    waiting = iter(todo)
    taking = threading.Lock()
    broken = threading.Event()

    def work(slot: str) -> None:
        while not stop and not broken.is_set():
            with taking:
                proxy = next(waiting, None)
            if proxy is None:
                return
            try:
                record, _ = slots.make(proxy.job, slot, stop)
            except BaseException:
                broken.set()  # the others end behind their runs
                raise
            with taking:
                ended(Made(proxy=proxy, record=record))

    with ThreadPoolExecutor(len(slots.names)) as pool:
        crew = [pool.submit(work, name) for name in slots.names]
    for worker in crew:
        worker.result()
