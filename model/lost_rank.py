"""Which rank ended first, and how: what the others can know when they cannot go on without it.

A rank that lost another one in the middle of an exchange knows a broken connection, and on NVLink
not even that. The run's directory knows more: a rank holds the lock on its events for as long as
it lives, whatever ends it, and leaves a result unless it was killed (model/rundir.py). Of several
that ended, one that itself ended for want of another is not the cause. No torch.
"""

import json
import time
from pathlib import Path
from typing import Any

from model.failure import IN_ANOTHER_RANK
from model.ranks import Ranks
from model.rundir import is_at_work, place_of

PATIENCE_S = 3.0  # connections break before the process that ends has written its result
POLL_S = 0.05


def lost_rank(root: Path, ranks: Ranks, patience_s: float = PATIENCE_S) -> str | None:
    """How the rank ended that took the others with it; None where all are still at work."""
    deadline = time.monotonic() + patience_s
    while (told := _told(root, ranks)) is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return told


def _told(root: Path, ranks: Ranks) -> str | None:
    others = (rank for rank in range(ranks.count) if rank != ranks.rank)
    ends = (_end_of(rank, place_of(root, rank)) for rank in others)
    return next((end for end in ends if end is not None), None)


def _end_of(rank: int, place: Path) -> str | None:
    """How a rank ended; None where it is at work, or ended because of another."""
    if is_at_work(place):
        return None
    result = _result(place)
    if result is None:
        return f"rank {rank} ended without a result, as what is killed does"
    if result["remedy"] == IN_ANOTHER_RANK:
        return None
    return f"rank {rank} ended before: {result['status']}: {result['reason']}"


def _result(place: Path) -> dict[str, Any] | None:
    """Whole or absent: it is written by rename."""
    try:
        content: dict[str, Any] = json.loads((place / "result.json").read_bytes())
    except FileNotFoundError:
        return None
    return content
