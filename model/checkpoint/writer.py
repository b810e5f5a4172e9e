"""When checkpoints are written, and the thread that writes them.

Training asks `due` after each step and hands its state over with `save`, which returns as soon as
the state is copied into host memory. A thread does the rest: it waits for the copy, writes, forces
to the disk, renames, removes what is older than the newest few. A checkpoint that falls due while
the one before it is still being written waits for it, and training does not.

Of several ranks each one writes its own file. Once all have heard at a roll call that nobody is
writing any more, they `agree`: rank 0 publishes the checkpoint, or gives it up where some disk
refused. All of that stands at fixed steps of the main threads; the disks have theirs beside it.

A disk that refuses is told as an event, and training goes on without that checkpoint; those that
were written stay.
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
from model.checkpoint.directory import Manifest, Stored
from model.checkpoint.staging import HostCopy, write_tensors
from model.config import Checkpointing
from model.distributed.ranks import ALONE, Ranks
from model.distributed.step_status import StepStatus
from model.system.timing import Clock, Lap


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """What became of one checkpoint, or of one rank's file for it; `refused` is the disk's reason
    where it was not written."""

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


@dataclass(frozen=True, kw_only=True)
class _Written:
    """One rank's part of a checkpoint: its file, or the disk's reason."""

    outcome: WriteResult
    stored: Stored | None


class CheckpointWriter:
    """Writes a run's checkpoints. Close it, or use `with`: the last one is then on the disk.

    What is marked "all ranks" is called by all of them behind the same step.
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
        """`at_step` is the checkpoint that the run goes on from; 0 for a run from its start.
        All ranks."""
        self._folder, self._settings, self._device = folder, settings, device
        self._ranks = ranks
        self._copy = HostCopy(device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[_Written] | None = None
        self._publishing: Future[WriteResult] | None = None
        self._manifest: Manifest | None = None  # of the checkpoint that was asked for last
        self._results: deque[WriteResult] = deque()
        self._asked_step, self._asked_at_s = at_step, time.monotonic()
        self.newest_step = at_step
        if ranks.rank == 0:
            checkpoint.clear(folder)
        ranks.all_gather_object(None)  # nobody writes before that is done

    def status(self) -> StepStatus:
        """What this rank knows of its disk and its clock."""
        every_minutes, waited_s = self._settings.every_minutes, time.monotonic() - self._asked_at_s
        under_way = (self._writing, self._publishing)
        return StepStatus(
            writing=any(work is not None and not work.done() for work in under_way),
            late=every_minutes is not None and waited_s >= 60 * every_minutes,
        )

    @property
    def awaits_ranks(self) -> bool:
        """Whether the ranks have yet to agree on what each one writes."""
        return not self._ranks.alone and self._writing is not None

    def due(self, step: int, *, last: bool, heard: StepStatus | None = None) -> bool:
        """Whether to `save` after this step, by what was `heard` of all ranks (null: of this one).
        The last one of a run that keeps any always is. All ranks."""
        every_steps, every_minutes = self._settings.every_steps, self._settings.every_minutes
        if last:
            return (every_steps, every_minutes) != (None, None) and step != self._asked_step
        heard = heard or self.status()
        if heard.writing or self.awaits_ranks:
            return False
        if every_steps is not None and step // every_steps > self._asked_step // every_steps:
            return True
        return heard.late

    def save(self, state: Any, manifest: Manifest) -> None:
        """Copies a state and hands it to the thread, once that is free. All ranks."""
        assert not self.awaits_ranks, "the checkpoint before it is not agreed on"
        self._wait()
        began, clock = time.perf_counter(), Clock(self._device)
        copied, lap = self._copy.of(state), clock.lap()
        held_s = time.perf_counter() - began
        self._asked_step, self._asked_at_s = manifest.step, time.monotonic()
        self._manifest = manifest
        writing = self._thread.submit(self._write, copied, manifest.step, lap, held_s)
        if self._ranks.alone:
            self._publishing = self._thread.submit(lambda: self._publish([writing.result()]))
        else:
            self._writing = writing

    def save_now(self, state: Any, manifest: Manifest) -> None:
        """`save` that waits for the disk; nothing where this step is on the disk already. All
        ranks."""
        self.complete()
        if manifest.step != self.newest_step:
            self.save(state, manifest)
            self.complete()

    def agree(self) -> None:
        """Makes a checkpoint of what all ranks have written, in rank 0's thread, or gives it up.
        All ranks, where one `awaits_ranks`."""
        assert self._writing is not None, "no file of this rank"
        parts = self._ranks.all_gather_object(self._writing.result())
        self._writing = None
        if self._ranks.rank == 0:
            self._publishing = self._thread.submit(self._publish, parts)

    def complete(self) -> None:
        """Waits until what was saved is published or given up, and all know it. All ranks."""
        if self.awaits_ranks:
            self.agree()
        self._wait()
        self.newest_step = self._ranks.all_gather_object(self.newest_step)[0]

    def take_results(self) -> list[WriteResult]:
        """What became of checkpoints since the last question; rank 0 tells for all."""
        if self._publishing is not None and self._publishing.done():
            self._wait()
        told = list(self._results)
        self._results.clear()
        return told

    def close(self) -> None:
        """Waits for the disk and ends the thread. A file that the ranks have not agreed on stays
        unfinished: a run that fails waits for nobody."""
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
        """This rank's file, in the thread."""
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
                path.unlink()  # half of one only takes room
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
        """The checkpoint of these parts, one a rank, in the thread."""
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
    """One outcome for all ranks: bytes together, seconds of the slowest, each one's refusal."""
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
