"""Copies checkpoint tensors to host memory, writes them to a file, and reads them back.

Training waits only for the copy to host memory. On a GPU the copy goes to pinned memory on the
training stream: the next step's kernels run after it, the host does not wait, and no kernel changes
a tensor that is still being read. The copy is at most 12 bytes a parameter, while a step of 2^19
tokens computes 3 million FLOPs for each: on an H100 over PCIe a few hundredths of a step.
Overlapping it with the next step would hide that time, but add it to `train_time_s`, which must not
include checkpoints.

The host memory is reused by later checkpoints, because pinning is slow.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from model.checkpoint.directory import StoredFile


class HostCopy:
    """Copies nested states to host memory, the same memory each time."""

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._tensors: dict[tuple[Any, ...], Tensor] = {}

    def of(self, state: Any, path: tuple[Any, ...] = ()) -> Any:
        """`state` with every tensor replaced by its copy, which on a GPU is complete once the
        stream is.

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


def write_tensors(path: Path, state: Any) -> StoredFile:
    """Write a state as one file and sync it to disk. Raises OSError."""
    with path.open("wb") as file:
        sink = _HashingSink(file)
        try:
            torch.save(state, cast(BinaryIO, sink))  # only calls write
        except Exception as error:  # torch reports a full disk as an unexpected position
            raise sink.error or error from error
        file.flush()
        os.fsync(file.fileno())
    return StoredFile(bytes=sink.bytes, sha256=sink.digest.hexdigest())


def read_tensors(path: Path) -> Any:
    """The state in a file, in host memory; runs no code from the file."""
    return torch.load(path, map_location="cpu", weights_only=True)


class _HashingSink:
    """A writable file with the SHA-256 of the written bytes and the last OSError."""

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
