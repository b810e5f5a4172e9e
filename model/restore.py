"""Which checkpoint a resumed run goes on from: the newest one that is whole.

Damaged ones before it are passed over and told. A checkpoint of another run is never passed over:
the directory then belongs to that run, and the resumption is refused. Where there are checkpoints
and none is whole, that is refused too: starting over would throw away what the run had reached
without a word. Only a run that never wrote one starts from its first step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import checkpoint
from model.checkpoint import Identity, Manifest
from model.errors import DamagedCheckpoint, RunError
from model.snapshot import read_tensors


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint to go on from, and those newer ones that were damaged."""

    path: Path
    manifest: Manifest
    state: Any
    damaged: list[DamagedCheckpoint]


def newest_whole(folder: Path, asked: Identity, *, other_code: bool) -> Found | None:
    """The checkpoint to go on from; None where the folder has none. Raises RunError."""
    faults: list[DamagedCheckpoint] = []
    for path in checkpoint.listed(folder):
        try:
            manifest = checkpoint.read_manifest(path)
            checkpoint.require_same_run(path, manifest.identity, asked, other_code=other_code)
            checkpoint.require_whole(path, manifest)
        except DamagedCheckpoint as fault:
            faults.append(fault)
            continue
        state = read_tensors(path / checkpoint.rank_file(checkpoint.RANK))
        return Found(path=path, manifest=manifest, state=state, damaged=faults)
    if faults:
        raise RunError(
            path=str(folder),
            expected="a whole checkpoint",
            got="; ".join(f"{Path(f.path).name}: not {f.expected} but {f.got}" for f in faults),
            remedy="Delete the folder to start the run from its first step, or bring back a copy.",
        )
    return None
