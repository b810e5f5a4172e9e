"""The tensors of a checkpoint: from the device into host memory, from there into a file, and back.

A copy into host memory is all that training waits for. On a GPU it goes to pinned memory in the
order of the stream that trains: the next step's kernels come behind it, the host doesn't wait,
and no kernel can change a tensor that is still being read. The copy is at most 12 bytes a parameter
where a step of 2^19 tokens computes 3 million FLOPs for each: by PCIe's and an H100's rates a few
hundredths of one step. Overlapping it with the next step would hide those, and put them into a
time that must have no checkpoint in it (`train_time_s`).

The host memory is kept from one checkpoint to the next, because pinning it is slow.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from model.checkpoint.directory import Stored


class HostCopy:
    """Copies nested states into host memory of its own, the same memory every time."""

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._tensors: dict[tuple[Any, ...], Tensor] = {}

    def of(self, state: Any, path: tuple[Any, ...] = ()) -> Any:
        """`state` with every tensor replaced by its copy; on a GPU it is there once the stream is.

        Valid until the next call.
        """
        if isinstance(state, Tensor):
            return self._place(state, path).copy_(state, non_blocking=self._pinned)
        if isinstance(state, Mapping):
            return {name: self.of(value, (*path, name)) for name, value in state.items()}
        if isinstance(state, list | tuple):
            return type(state)(self.of(value, (*path, i)) for i, value in enumerate(state))
        return state

    def _place(self, tensor: Tensor, path: tuple[Any, ...]) -> Tensor:
        place = self._tensors.get(path)
        if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
            place = torch.empty(
                tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=self._pinned
            )
            self._tensors[path] = place
        return place


def write_tensors(path: Path, state: Any) -> Stored:
    """Writes a state as one file, forced to the disk. Raises OSError as the disk gives it."""
    with path.open("wb") as file:
        sink = _HashingSink(file)
        try:
            torch.save(state, cast(BinaryIO, sink))  # of a file it asks for no more than write
        except Exception as error:  # torch tells a full disk as a position it did not expect
            raise sink.error or error from error
        file.flush()
        os.fsync(file.fileno())
    return Stored(bytes=sink.bytes, sha256=sink.digest.hexdigest())


def read_tensors(path: Path) -> Any:
    """The state in a file, in host memory; no code in the file is ever run."""
    return torch.load(path, map_location="cpu", weights_only=True)


class _HashingSink:
    """A file to write to that knows the SHA-256 of what went through, and why it refused."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.bytes += written
        return written

    def flush(self) -> None:
        self._file.flush()
