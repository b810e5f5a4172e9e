"""Decides when to write checkpoints, and writes them in a thread.

Training calls `due` after each step and passes its state to `save`, which returns once the state is
copied to host memory. The thread waits for the copy, writes, syncs to disk, renames, and deletes
older checkpoints. A checkpoint that falls due while the previous one is still being written is
delayed; training is not.

Each rank writes its own file. Once the reduced status shows that no rank is writing, they call
`agree`: rank 0 publishes the checkpoint, or discards it where a write failed. The ranks agree at
fixed steps of the main threads.

A failed write becomes an event, and training continues without that checkpoint; earlier ones
remain.
"""

import contextlib
import shutil
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from model.checkpoint import directory as checkpoint
from model.checkpoint.directory import Manifest, StoredFile
from model.checkpoint.staging import HostCopy, write_tensors
from model.config import Checkpointing
from model.distributed.ranks import ALONE, Ranks
from model.distributed.step_status import StepStatus
from model.system.timing import Clock, Lap


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """The outcome of one checkpoint, or of one rank's file; `refused` is the OS error of a failed
    write."""

    step: int
    held_s: float
    """How long training stopped: for the copy on a CPU, for launching it on a GPU."""
    copy_s: float
    """How long the copy took on the device."""
    write_s: float
    bytes: int = 0
    refused: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Seconds rounded to microseconds; without null values."""
        known = [(name, value) for name, value in asdict(self).items() if value is not None]
        return {name: round(v, 6) if isinstance(v, float) else v for name, v in known}


@dataclass(frozen=True, kw_only=True)
class _Written:
    """One rank's part of a checkpoint: its file, or the error."""

    outcome: WriteResult
    stored: StoredFile | None


class CheckpointWriter:
    """Writes a run's checkpoints. Call `close`, or use `with`, to finish the last one.

    Methods marked "all ranks" are called by all of them after the same step.
    """

    def __init__(
        self,
        folder: Path,
        settings: Checkpointing,
        device: torch.device,
        *,
        at_step: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        """`at_step` is the checkpoint from which the run resumed; 0 for a new run. All ranks."""
        self._folder, self._settings, self._device = folder, settings, device
        self._ranks = ranks
        self._copy = HostCopy(device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[_Written] | None = None
        self._publishing: Future[WriteResult] | None = None
        self._manifest: Manifest | None = None  # of the last saved checkpoint
        self._results: deque[WriteResult] = deque()
        self._saved_step, self._saved_at_s = at_step, time.monotonic()
        self.newest_step = at_step
        if ranks.rank == 0:
            checkpoint.clear(folder)
        ranks.all_gather_object(None)  # no rank writes before that

    def status(self) -> StepStatus:
        every_minutes, waited_s = self._settings.every_minutes, time.monotonic() - self._saved_at_s
        under_way = (self._writing, self._publishing)
        return StepStatus(
            writing=any(work is not None and not work.done() for work in under_way),
            overdue=every_minutes is not None and waited_s >= 60 * every_minutes,
        )

    @property
    def awaits_ranks(self) -> bool:
        """Whether the ranks have yet to agree on a written checkpoint."""
        return not self._ranks.alone and self._writing is not None

    def due(self, step: int, *, last: bool, status: StepStatus | None = None) -> bool:
        """Whether to `save` after this step, by the reduced `status` (null: this rank's). Always
        after the last step of a run that writes checkpoints. All ranks."""
        every_steps, every_minutes = self._settings.every_steps, self._settings.every_minutes
        if last:
            return (every_steps, every_minutes) != (None, None) and step != self._saved_step
        status = status or self.status()
        if status.writing or self.awaits_ranks:
            return False
        if every_steps is not None and step // every_steps > self._saved_step // every_steps:
            return True
        return status.overdue

    def save(self, state: Any, manifest: Manifest) -> None:
        """Copy a state and pass it to the thread, once that is free. All ranks."""
        assert not self.awaits_ranks, "the ranks have not agreed on the previous checkpoint"
        self._wait()
        began, clock = time.perf_counter(), Clock(self._device)
        copied, lap = self._copy.of(state), clock.lap()
        held_s = time.perf_counter() - began
        self._saved_step, self._saved_at_s = manifest.step, time.monotonic()
        self._manifest = manifest
        writing = self._thread.submit(self._write, copied, manifest.step, lap, held_s)
        if self._ranks.alone:
            self._publishing = self._thread.submit(lambda: self._publish([writing.result()]))
        else:
            self._writing = writing

    def save_now(self, state: Any, manifest: Manifest) -> None:
        """`save` and wait for the disk, unless this step is already saved. All ranks."""
        self.complete()
        if manifest.step != self.newest_step:
            self.save(state, manifest)
            self.complete()

    def agree(self) -> None:
        """Publish the files of all ranks as a checkpoint in rank 0's thread, or discard them. All
        ranks, if `awaits_ranks`."""
        assert self._writing is not None, "no file of this rank"
        parts = self._ranks.all_gather_object(self._writing.result())
        self._writing = None
        if self._ranks.rank == 0:
            self._publishing = self._thread.submit(self._publish, parts)

    def complete(self) -> None:
        """Wait until the last checkpoint is published or discarded on all ranks. All ranks."""
        if self.awaits_ranks:
            self.agree()
        self._wait()
        self.newest_step = self._ranks.all_gather_object(self.newest_step)[0]

    def take_results(self) -> list[WriteResult]:
        """The outcomes of checkpoints since the last call; only rank 0 has any."""
        if self._publishing is not None and self._publishing.done():
            self._wait()
        taken = list(self._results)
        self._results.clear()
        return taken

    def close(self) -> None:
        """Wait for the disk and end the thread. A file without agreement stays unfinished: a
        failing run waits for no other rank."""
        self._thread.shutdown()
        self._wait()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self) -> None:
        if self._publishing is None:
            return
        publishing, self._publishing = self._publishing, None
        outcome = publishing.result()
        self._results.append(outcome)
        if outcome.refused is None:
            self.newest_step = outcome.step

    def _write(self, state: Any, step: int, lap: Lap, held_s: float) -> _Written:
        """Write this rank's file, in the thread."""
        copy_s, began = lap.seconds(), time.perf_counter()
        stored, refused = None, None
        folder = checkpoint.unfinished(self._folder, step)
        path = folder / checkpoint.rank_file(self._ranks.rank)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stored = write_tensors(path, state)
        except OSError as error:
            refused = str(error)
            with contextlib.suppress(OSError):
                path.unlink()  # a partial file only takes disk space
        write_s = time.perf_counter() - began
        outcome = WriteResult(
            step=step,
            held_s=held_s,
            copy_s=copy_s,
            write_s=write_s,
            bytes=stored.bytes if stored is not None else 0,
            refused=refused,
        )
        return _Written(outcome=outcome, stored=stored)

    def _publish(self, parts: Sequence[_Written]) -> WriteResult:
        """Publish these parts, one a rank, in the thread."""
        assert self._manifest is not None
        outcome, began = _of_all([part.outcome for part in parts]), time.perf_counter()
        unfinished = checkpoint.unfinished(self._folder, outcome.step)
        files = {
            checkpoint.rank_file(rank): part.stored
            for rank, part in enumerate(parts)
            if part.stored is not None
        }
        refused = outcome.refused
        try:
            if refused is None:
                checkpoint.publish(unfinished, replace(self._manifest, files=files))
                checkpoint.prune(self._folder, self._settings.keep)
        except OSError as error:
            refused = str(error)
        if refused is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        write_s = outcome.write_s + time.perf_counter() - began
        return replace(outcome, write_s=write_s, refused=refused)


def _of_all(outcomes: Sequence[WriteResult]) -> WriteResult:
    """One outcome for all ranks: summed bytes, seconds of the slowest, each refusal."""
    alone = len(outcomes) == 1
    refusals = [
        each.refused if alone else f"rank {rank}: {each.refused}"
        for rank, each in enumerate(outcomes)
        if each.refused is not None
    ]
    return WriteResult(
        step=outcomes[0].step,
        held_s=max(each.held_s for each in outcomes),
        copy_s=max(each.copy_s for each in outcomes),
        write_s=max(each.write_s for each in outcomes),
        bytes=sum(each.bytes for each in outcomes),
        refused="; ".join(refusals) or None,
    )
