"""Rows of each step as torch tensors, one step ahead of the trainer.

Step k takes rows k·B to (k+1)·B of the plan (or the rows that a function of k returns, where batch
sizes differ), and rank r takes its contiguous share. What a step trains on therefore depends
neither on the rank count nor on where a run resumed. A thread gathers the next batch while the
device computes and copies it from pinned memory without blocking. `next` raises an error of the
thread when it would have returned that batch.

B rows of a step over all ranks, T tokens of context.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import torch

from model.data.rows import Rows
from model.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's rows of one rank: `tokens` (B / ranks, T + 1) int64, and the wait in seconds."""

    tokens: torch.Tensor
    waited_s: float


class Loader:
    """Yields the batches of steps `start_step`, `start_step + 1`, … Call `close`, or use `with`."""

    def __init__(
        self,
        rows: Rows,
        *,
        batch_rows: int | Callable[[int], range],
        start_step: int = 0,
        rank: int = 0,
        ranks: int = 1,
        device: torch.device | str = "cpu",
        ahead: int = 1,
    ) -> None:
        """`batch_rows` is B over all ranks, or a function from a step (from 0) to its rows; `ahead`
        batches are queued. Raises DataError."""
        assert 0 <= rank < ranks, (rank, ranks)
        self._rows, self._step = rows, start_step
        self._rank, self._ranks = rank, ranks
        self._rows_of = _equal_batches(batch_rows) if isinstance(batch_rows, int) else batch_rows
        self._share_of(start_step)
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._ready: queue.Queue[torch.Tensor | Exception] = queue.Queue(maxsize=ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="loader", daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next step's batch on the device; raises the thread's exception, if any.

        Raises DataError when the plan has no rows left for this step.
        """
        assert not self._closing.is_set(), "next() of a closed loader"
        began = time.perf_counter()
        item = self._ready.get()
        if isinstance(item, Exception):
            self.close()
            raise item
        tokens = item.to(self._device, non_blocking=True)
        return Batch(tokens=tokens, waited_s=time.perf_counter() - began)

    def close(self) -> None:
        """End the thread; safe to call twice."""
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()  # make room for a thread that waits to put
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # the current GPU is a property of the thread
        step = self._step
        while not self._closing.is_set():
            try:
                item: torch.Tensor | Exception = self._gather(step)
            except Exception as error:  # next() raises it
                item = error
            self._ready.put(item)
            if isinstance(item, Exception):
                return
            step += 1

    def _gather(self, step: int) -> torch.Tensor:
        share = self._share_of(step)
        needed = self._rows_of(step).stop
        if needed > self._rows.rows:
            raise DataError(
                path="data",
                expected=f"{needed} planned rows for step {step}",
                got=f"{self._rows.rows}",
                hint="Plan as many rows as all steps take (`Prepared.rows`).",
            )
        tokens = torch.from_numpy(self._rows.tokens(share.start, share.stop))
        return tokens.pin_memory() if self._device.type == "cuda" else tokens

    def _share_of(self, step: int) -> range:
        """This rank's rows of a step; raises DataError where the batch does not divide by the
        ranks."""
        rows = self._rows_of(step)
        if len(rows) < 1 or len(rows) % self._ranks:
            raise DataError(
                path="data",
                expected=f"a batch that {self._ranks} ranks can share evenly",
                got=f"{len(rows)} rows",
                hint="Change the batch or the number of ranks.",
            )
        share = len(rows) // self._ranks
        return rows[self._rank * share : (self._rank + 1) * share]


def _equal_batches(batch_rows: int) -> Callable[[int], range]:
    return lambda step: range(step * batch_rows, (step + 1) * batch_rows)
