"""A rank that stops responding, as on a broken machine, beside a working one.

    python silent_rank.py PORT PHASE OUT      with RANK and the other variables of torchrun

Both connect. Rank 0 runs a probe with short timeouts; rank 1 sends its facts in every round before
PHASE, and then nothing until its input ends.
"""

import os
import sys
from pathlib import Path

from model.config.resolve import resolve
from model.diagnostics.probe.facts import Machine, Work
from model.diagnostics.probe.phases import Limits, ProbePhases
from model.diagnostics.probe.rendezvous import connect
from model.distributed.ranks import from_environment

BASE = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun_tiny_cpu.yaml"
LIMITS = Limits(connect_s=60.0, inspect_s=20.0, work_s=20.0, sum_s=1.0, slack_s=0.5)
# timeouts of rank 0 in the round that rank 1 skips
SHORT = {"look": {"inspect_s": 1.0}, "work": {"work_s": 1.0}, "sum": {}}


def probe(phase: str, out: Path) -> None:
    config, derived = resolve(str(BASE), {"system.threads": 1}, 2)
    limits = Limits(**{**vars(LIMITS), **SHORT[phase]})
    phases = ProbePhases(config, derived, from_environment(), out, limits)
    assert phases.run()
    sys.stdout.flush()
    os._exit(3 if phases.hangs else 0)


def stop_responding(phase: str) -> None:
    rendezvous = connect(from_environment(), LIMITS.connect_s)
    rounds = {"look": [], "work": ["seen"], "sum": ["seen", "worked"]}[phase]
    facts = {
        "seen": Machine(rank=1, device="cpu"),
        "worked": Work(matmul_tflops=1.0, copy_gb_s=1.0),
    }
    for name in rounds:
        rendezvous.post(f"{name}/1", facts[name].to_json())
    sys.stdin.read()


if __name__ == "__main__":
    os.environ["MASTER_PORT"] = sys.argv[1]
    if os.environ["RANK"] == "0":
        probe(sys.argv[2], Path(sys.argv[3]))
    else:
        stop_responding(sys.argv[2])
