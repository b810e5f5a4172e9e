"""Finds the rank that ended first, and its result, for ranks that cannot continue without it.

A rank that lost another one during a collective sees at most a broken connection. The run directory
has more: a rank holds the lock on its events while it lives, and leaves a result unless it was
killed (model/runtime/run_dir.py). The run then ends with that rank's status. A rank that itself
ended because of another is not the cause. No torch.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from model.distributed.ranks import Ranks
from model.runtime.run_dir import is_running, rank_dir
from model.system.failure import IN_ANOTHER_RANK

WAIT_S = 3.0  # connections break before the ending process has written its result
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class LostRank:
    """The end of a rank, and so of the run."""

    status: str
    reason: str
    hint: str | None


def lost_rank(root: Path, ranks: Ranks, wait_s: float = WAIT_S) -> LostRank | None:
    """The end of the rank that ended the others; None where all are running."""
    deadline = time.monotonic() + wait_s
    while (lost := _lost(root, ranks)) is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return lost


def _lost(root: Path, ranks: Ranks) -> LostRank | None:
    others = (rank for rank in range(ranks.count) if rank != ranks.rank)
    ends = [_end_of(rank, rank_dir(root, rank)) for rank in others]
    known = [end for end in ends if end is not None]
    # torchrun interrupts the other ranks, so an uninterrupted one is the cause
    return min(known, key=lambda end: end.status == "interrupted", default=None)


def _end_of(rank: int, folder: Path) -> LostRank | None:
    """The end of a rank; None where it is running, or ended because of another."""
    if is_running(folder):
        return None
    try:
        result = json.loads((folder / "result.json").read_bytes())  # complete or absent
    except FileNotFoundError:
        reason = f"rank {rank} ended without a result, probably killed"
        return LostRank(status="failed", reason=reason, hint=IN_ANOTHER_RANK)
    if result["hint"] == IN_ANOTHER_RANK:
        return None
    reason = f"rank {rank}: {result['reason']}"
    return LostRank(status=result["status"], reason=reason, hint=result["hint"])
