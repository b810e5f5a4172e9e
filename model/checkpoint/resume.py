"""Selects the checkpoint of a resumed run: the newest intact one.

Damaged newer ones are skipped and reported. A checkpoint of another run is refused, because the
directory belongs to that run. Where checkpoints exist and none is intact, resuming is refused too:
starting over would silently discard the run. A run without checkpoints starts from its first step.

Each rank reads its own file, or with another number of ranks all files, and all resume from the
same checkpoint: one that is damaged for one rank is skipped by all.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint import directory as checkpoint
from model.checkpoint.directory import Identity, Manifest, ResumeOptions
from model.checkpoint.staging import read_tensors
from model.distributed.ranks import ALONE, Ranks
from model.errors import DamagedCheckpoint, RunError

OF_RANK_0 = ("model", "average")
"""What all ranks have alike, and rank 0 keeps: the weights, and their averages if any."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """A checkpoint to resume from, and the newer damaged ones."""

    path: Path
    manifest: Manifest
    states: list[Any]
    """This rank's own state; of another number of ranks, the states of all of them."""
    damaged: list[DamagedCheckpoint]


def newest_whole(
    folder: Path, requested: Identity, options: ResumeOptions, ranks: Ranks = ALONE
) -> ResumePoint | None:
    """The checkpoint to resume from; None where the folder has none. Raises RunError.

    All ranks must call it.
    """
    faults: list[DamagedCheckpoint] = []
    for path in ranks.all_gather_object(checkpoint.listed(folder))[0]:
        manifest, fault = _checked(path, requested, options, ranks)
        if (agreed := _of_all(ranks, fault)) is not None:
            faults.append(agreed)
            continue
        assert manifest is not None
        files = _files(manifest, ranks)
        states = [_state(path, each) for each in files]
        return ResumePoint(path=path, manifest=manifest, states=states, damaged=faults)
    if faults:
        raise RunError(
            path=str(folder),
            expected="a whole checkpoint",
            got="; ".join(f"{Path(f.path).name}: not {f.expected} but {f.got}" for f in faults),
            hint="Delete the folder to start the run from its first step, or restore a copy.",
        )
    return None


def _checked(
    path: Path, requested: Identity, options: ResumeOptions, ranks: Ranks
) -> tuple[Manifest | None, RunError | None]:
    """The manifest of a checkpoint that this rank can resume from, or its fault."""
    try:
        manifest = checkpoint.read_manifest(path)
        checkpoint.require_same_run(path, manifest.identity, requested, options)
        for each in _files(manifest, ranks):
            checkpoint.require_whole(path, manifest, each)
    except RunError as fault:
        return None, fault
    return manifest, None


def _files(manifest: Manifest, ranks: Ranks) -> list[int]:
    """The ranks whose files this rank reads."""
    saved = manifest.identity.ranks
    return [ranks.rank] if saved == ranks.count else list(range(saved))


def _of_all(ranks: Ranks, fault: RunError | None) -> DamagedCheckpoint | None:
    """Damage that any rank found; raises a refusal on all ranks."""
    own = None if fault is None else (isinstance(fault, DamagedCheckpoint), fault.as_json())
    found = [each for each in ranks.all_gather_object(own) if each is not None]
    for is_damage, fields in found:
        if not is_damage:
            raise RunError(**fields)
    return DamagedCheckpoint(**found[0][1]) if found else None


def _state(path: Path, rank: int) -> Any:
    """A rank's own state, with what rank 0's file holds for all."""
    state = read_tensors(path / checkpoint.rank_file(rank))
    if rank:
        shared = read_tensors(path / checkpoint.rank_file(0))
        state |= {name: shared[name] for name in OF_RANK_0 if name in shared}
    return state
