"""A rank that stops to answer, as one on a broken machine does: probed beside a real one.

    python silent_rank.py PORT PHASE OUT      with RANK and the other variables of torchrun

Both meet. Rank 0 goes through its probe with little patience; rank 1 says in every round before
PHASE what a rank says, and then nothing any more, until its input ends.
"""

import os
import sys
from pathlib import Path

from model.config.resolve import resolve
from model.diagnostics.probe.facts import Seen, Worked
from model.diagnostics.probe.phases import Limits, ProbePhases
from model.diagnostics.probe.rendezvous import meet
from model.distributed.ranks import from_environment

BASE = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun_tiny_cpu.yaml"
LIMITS = Limits(meet_s=60.0, look_s=20.0, work_s=20.0, sum_s=1.0, slack_s=0.5)
# how long rank 0 waits in the round that rank 1 does not come to
SHORT = {"look": {"look_s": 1.0}, "work": {"work_s": 1.0}, "sum": {}}


def probe(phase: str, out: Path) -> None:
    config, derived = resolve(str(BASE), {"system.threads": 1}, 2)
    limits = Limits(**{**vars(LIMITS), **SHORT[phase]})
    course = ProbePhases(config, derived, from_environment(), out, limits)
    assert course.run()
    sys.stdout.flush()
    os._exit(3 if course.hangs else 0)


def fall_silent(phase: str) -> None:
    board = meet(from_environment(), LIMITS.meet_s)
    rounds = {"look": [], "work": ["seen"], "sum": ["seen", "worked"]}[phase]
    facts = {"seen": Seen(rank=1, device="cpu"), "worked": Worked(matmul_tflops=1.0, copy_gb_s=1.0)}
    for name in rounds:
        board.post(f"{name}/1", facts[name].to_json())
    sys.stdin.read()


if __name__ == "__main__":
    os.environ["MASTER_PORT"] = sys.argv[1]
    if os.environ["RANK"] == "0":
        probe(sys.argv[2], Path(sys.argv[3]))
    else:
        fall_silent(sys.argv[2])
