"""Runs the proxies of a job: ordinary runs on one GPU each, recorded once and resumable.

As many run at once as the job has GPUs on this machine, the largest first, so that no GPU waits for
it at the end.
"""

import os
import threading
from collections.abc import Sequence

from harness.full.listener import FullListener, ProxyResult
from harness.full.plan import JobPlan, ProxyPlan
from harness.results.record import Record
from harness.results.store import Store
from harness.runner.process import Stop
from harness.runner.replicates import recorded_run
from harness.runner.trainer import NativeTrainer
from harness.runner.workers import GpuPool


def missing_proxies(plan: JobPlan, store: Store) -> list[ProxyPlan]:
    """The proxies without a final record, the largest first."""
    todo = [proxy for proxy in plan.proxies if recorded_run(store, proxy.job, ()) is None]
    return sorted(todo, key=lambda proxy: -float(proxy.job.derived.get("tokens") or 0))


def failed_proxies(plan: JobPlan, store: Store) -> list[ProxyResult]:
    """The proxies whose final record is not completed: they would fail again."""
    results = [ProxyResult(proxy=p, record=recorded_run(store, p.job, ())) for p in plan.proxies]
    return [one for one in results if one.record and one.record.status != "completed"]


def completed_proxies(plan: JobPlan, store: Store) -> list[Record]:
    """The completed records of the proxies, in the order of the file."""
    records = [store.record(proxy.job.plan_id) for proxy in plan.proxies]
    return [record for record in records if record is not None]


def visible_gpus(count: int) -> list[str]:
    """Up to `count` GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def run_proxies(
    todo: Sequence[ProxyPlan],
    plan: JobPlan,
    store: Store,
    trainer: NativeTrainer,
    stop: Stop,
    listener: FullListener,
) -> None:
    """Runs proxies until all have ended or `stop` is set. Raises what a run raises."""
    gpus = visible_gpus(len(trainer.machine().get("gpus") or []))[: plan.file.ranks]
    pool = GpuPool(store, trainer, gpus if len(gpus) > 1 else [], 60 * plan.file.limits.hours)
    lock = threading.Lock()

    def run(proxy: ProxyPlan, gpu: str) -> None:
        if not stop:
            record, _ = pool.make(proxy.job, gpu, stop)
            with lock:
                listener.proxy_ended(ProxyResult(proxy=proxy, record=record))

    pool.spread(run, todo)
