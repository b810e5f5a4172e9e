"""Which rank ended first, and how: what the others can know when they cannot go on without it.

A rank that lost another one in the middle of an exchange knows a broken connection, and on NVLink
not even that. The run's directory knows more: a rank holds the lock on its events for as long as it
lives, whatever ends it, and leaves a result unless it was killed (model/runtime/run_dir.py). The
run then ends as that rank did. Of several that ended, one that itself ended for want of another is
not the cause. No torch."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from model.distributed.ranks import Ranks
from model.runtime.run_dir import is_at_work, place_of
from model.system.failure import IN_ANOTHER_RANK

PATIENCE_S = 3.0  # connections break before the process that ends has written its result
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Lost:
    """How a rank ended, and so the run."""

    status: str
    reason: str
    hint: str | None


def lost_rank(root: Path, ranks: Ranks, patience_s: float = PATIENCE_S) -> Lost | None:
    """The end of the rank that took the others with it; None where all are still at work."""
    deadline = time.monotonic() + patience_s
    while (lost := _lost(root, ranks)) is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return lost


def _lost(root: Path, ranks: Ranks) -> Lost | None:
    others = (rank for rank in range(ranks.count) if rank != ranks.rank)
    ends = [_end_of(rank, place_of(root, rank)) for rank in others]
    known = [end for end in ends if end is not None]
    # those that were told to leave had to because of the one that was not
    return min(known, key=lambda end: end.status == "interrupted", default=None)


def _end_of(rank: int, place: Path) -> Lost | None:
    """How a rank ended; None where it is at work, or ended because of another."""
    if is_at_work(place):
        return None
    try:
        result = json.loads((place / "result.json").read_bytes())  # whole or absent
    except FileNotFoundError:
        reason = f"rank {rank} ended without a result, as what is killed does"
        return Lost(status="failed", reason=reason, hint=IN_ANOTHER_RANK)
    if result["hint"] == IN_ANOTHER_RANK:
        return None
    reason = f"rank {rank}: {result['reason']}"
    return Lost(status=result["status"], reason=reason, hint=result["hint"])
