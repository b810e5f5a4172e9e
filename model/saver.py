"""When checkpoints are written, and the thread that writes them.

Training asks `due` after each step and hands its state over with `save`, which returns as soon as
the state is copied into host memory. A thread does the rest: it waits for the copy, writes, forces
to the disk, renames, removes what is older than the newest few. A checkpoint that falls due while
the one before it is still being written waits for it, and training does not.

A disk that refuses is told as an event, and training goes on without that checkpoint; those that
were written stay.
"""

import shutil
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from model import checkpoint
from model.checkpoint import Manifest
from model.clock import Clock, Lap
from model.config import Checkpointing
from model.snapshot import HostCopy, write_tensors


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one checkpoint; `refused` is the disk's reason where it was not written."""

    step: int
    held_s: float
    """How long training stood still: the copy on a CPU, handing it to the GPU otherwise."""
    copy_s: float
    """How long the copy took on the device."""
    write_s: float
    bytes: int = 0
    refused: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Seconds rounded to microseconds; no reason where none was given."""
        known = [(name, value) for name, value in asdict(self).items() if value is not None]
        return {name: round(v, 6) if isinstance(v, float) else v for name, v in known}


class Saver:
    """Writes a run's checkpoints. Close it, or use `with`: the last one is then on the disk."""

    def __init__(
        self, folder: Path, settings: Checkpointing, device: torch.device, *, at_step: int = 0
    ) -> None:
        """`at_step` is the checkpoint that the run goes on from; 0 for a run from its start."""
        self._folder, self._settings, self._device = folder, settings, device
        self._copy = HostCopy(device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Outcome] | None = None
        self._news: deque[Outcome] = deque()
        self._asked_step, self._asked_at_s = at_step, time.monotonic()
        self.newest_step = at_step

    def due(self, step: int, *, last: bool) -> bool:
        """Whether to `save` after this step. The last one of a run that keeps any always is."""
        every_steps, every_minutes = self._settings.every_steps, self._settings.every_minutes
        if last:
            return (every_steps, every_minutes) != (None, None) and step != self._asked_step
        if self._writing is not None and not self._writing.done():
            return False
        if every_steps is not None and step // every_steps > self._asked_step // every_steps:
            return True
        waited_s = time.monotonic() - self._asked_at_s
        return every_minutes is not None and waited_s >= 60 * every_minutes

    def save(self, state: Any, manifest: Manifest) -> None:
        """Copies a state and hands it to the thread, once that is free."""
        self._wait()
        began, clock = time.perf_counter(), Clock(self._device)
        copied, lap = self._copy.of(state), clock.lap()
        held_s = time.perf_counter() - began
        self._asked_step, self._asked_at_s = manifest.step, time.monotonic()
        self._writing = self._thread.submit(self._write, copied, manifest, lap, held_s)

    def save_now(self, state: Any, manifest: Manifest) -> None:
        """`save` that waits for the disk; nothing where this step is on the disk already."""
        self._wait()
        if manifest.step != self.newest_step:
            self.save(state, manifest)
            self._wait()

    def news(self) -> list[Outcome]:
        """What became of checkpoints since the last question."""
        if self._writing is not None and self._writing.done():
            self._wait()
        told = list(self._news)
        self._news.clear()
        return told

    def close(self) -> None:
        """Waits for the disk and ends the thread."""
        self._wait()
        self._thread.shutdown()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self) -> None:
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        outcome = writing.result()
        self._news.append(outcome)
        if outcome.refused is None:
            self.newest_step = outcome.step

    def _write(self, state: Any, manifest: Manifest, lap: Lap, held_s: float) -> Outcome:
        copy_s, began = lap.seconds(), time.perf_counter()
        written, refused = 0, None
        try:
            written = self._write_files(state, manifest)
            checkpoint.prune(self._folder, self._settings.keep)
        except OSError as error:
            refused = str(error)
            for name in self._folder.glob(f"*{checkpoint.UNFINISHED}"):
                shutil.rmtree(name, ignore_errors=True)  # half of one only takes room
        write_s = time.perf_counter() - began
        return Outcome(
            step=manifest.step,
            held_s=held_s,
            copy_s=copy_s,
            write_s=write_s,
            bytes=written,
            refused=refused,
        )

    def _write_files(self, state: Any, manifest: Manifest) -> int:
        unfinished = checkpoint.begin(self._folder, manifest.step)
        name = checkpoint.rank_file(checkpoint.RANK)
        stored = write_tensors(unfinished / name, state)
        checkpoint.publish(unfinished, replace(manifest, files={name: stored}))
        return stored.bytes
