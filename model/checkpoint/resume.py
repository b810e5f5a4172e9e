"""Which checkpoint a resumed run goes on from: the newest one that is whole.

Damaged ones before it are passed over and told. A checkpoint of another run is never passed over:
the directory then belongs to that run, and the resumption is refused. Where there are checkpoints
and none is whole, that is refused too: starting over would throw away what the run had reached
without a word. Only a run that never wrote one starts from its first step.

Each of several ranks reads its own file, and all go on from the same checkpoint: one that is
damaged for one of them is damaged for all.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint import directory as checkpoint
from model.checkpoint.directory import Identity, Manifest
from model.checkpoint.staging import read_tensors
from model.distributed.ranks import ALONE, Ranks
from model.errors import DamagedCheckpoint, RunError

OF_RANK_0 = ("model", "average")
"""What all ranks have alike, and rank 0 keeps: the weights, and their averages if any."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint to go on from, and those newer ones that were damaged."""

    path: Path
    manifest: Manifest
    state: Any
    damaged: list[DamagedCheckpoint]


def newest_whole(
    folder: Path, asked: Identity, *, other_code: bool, ranks: Ranks = ALONE
) -> Found | None:
    """The checkpoint to go on from; None where the folder has none. Raises RunError.

    All ranks ask at once.
    """
    faults: list[DamagedCheckpoint] = []
    for path in ranks.all_gather_object(checkpoint.listed(folder))[0]:
        manifest, fault = _checked(path, asked, other_code, ranks.rank)
        if (agreed := _of_all(ranks, fault)) is not None:
            faults.append(agreed)
            continue
        assert manifest is not None
        return Found(path=path, manifest=manifest, state=_state(path, ranks.rank), damaged=faults)
    if faults:
        raise RunError(
            path=str(folder),
            expected="a whole checkpoint",
            got="; ".join(f"{Path(f.path).name}: not {f.expected} but {f.got}" for f in faults),
            hint="Delete the folder to start the run from its first step, or bring back a copy.",
        )
    return None


def _checked(
    path: Path, asked: Identity, other_code: bool, rank: int
) -> tuple[Manifest | None, RunError | None]:
    """The manifest of a checkpoint that this rank can go on from, or what keeps it."""
    try:
        manifest = checkpoint.read_manifest(path)
        checkpoint.require_same_run(path, manifest.identity, asked, other_code=other_code)
        checkpoint.require_whole(path, manifest, rank)
    except RunError as fault:
        return None, fault
    return manifest, None


def _of_all(ranks: Ranks, fault: RunError | None) -> DamagedCheckpoint | None:
    """The damage that some rank found; raises what refuses the resumption, at all of them."""
    own = None if fault is None else (isinstance(fault, DamagedCheckpoint), fault.as_json())
    found = [each for each in ranks.all_gather_object(own) if each is not None]
    for is_damage, words in found:
        if not is_damage:
            raise RunError(**words)
    return DamagedCheckpoint(**found[0][1]) if found else None


def _state(path: Path, rank: int) -> Any:
    """A rank's own state, with what rank 0 has kept for all."""
    state = read_tensors(path / checkpoint.rank_file(rank))
    if rank:
        shared = read_tensors(path / checkpoint.rank_file(0))
        state |= {name: shared[name] for name in OF_RANK_0 if name in shared}
    return state
