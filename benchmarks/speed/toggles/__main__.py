"""Measures what each trick of the catalogue costs or saves in tokens/s, on one GPU.

    python -m benchmarks.speed.toggles --synthetic --together 3 --minutes 9 --out toggles.jsonl
    python -m benchmarks.speed.toggles gpt2.yaml --tricks muon smear --out few.jsonl

The base (`speedrun` at depth 12 by default) is a `model.pace` process that lives for the whole
call. Up to --together tricks at a time (plan.py) start and compile beside it, as far as memory
lasts. Then base and tricks take turns, A B C C B A, until each trick and its base have together run
for --seconds; nothing else runs or compiles meanwhile. A trick that fails beside others is repeated
with the base alone; one that fails there becomes a row with its reason.

Each row is appended to --out when its trick ends. Re-run the same command to resume after a kill or
a stop at --minutes, also on another machine of the same kind. One launch a trick is a screening:
table.py describes what its interval covers.

Exit code 0; 1 where the base failed; 2 wrong usage; 5 stopped at --minutes, re-run to resume.
"""

import argparse
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.pace import CHECKOUT
from benchmarks.speed.step import positive
from benchmarks.speed.toggles import table
from benchmarks.speed.toggles.plan import Plan, Toggle, planned
from benchmarks.speed.toggles.rounds import BaseFailed, Clock, Sitting
from benchmarks.speed.toggles.rows import Noise, Rows
from harness.comparison.noise_model import NoiseModel
from harness.config.yaml_schema import parse_sets
from harness.errors import STOPPED_AT_LIMIT, HarnessError
from harness.gate.noise_sources import load_noise_model
from harness.gate.result import SPEED
from harness.results.recipe import NoiseScope, scale_from_derived
from harness.results.store import Store
from harness.runner.replies import Description
from harness.runner.trainer import NativeTrainer

BASE = CHECKOUT / "ablations" / "configs" / "speedrun.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, keeps, prints; the module's docstring has the exit codes."""
    chosen = _parser().parse_args(argv)
    clock = Clock(ends_at=time.monotonic() + 60 * chosen.minutes)
    try:
        trainer = NativeTrainer(CHECKOUT)
        plan = planned(trainer, chosen.base, parse_sets(chosen.set), chosen.tricks)
        rows = Rows(chosen.out)
        _measure(chosen, plan, rows, clock)
    except BaseFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if rows.sessions:
        print(table.terminal(rows))
    return STOPPED_AT_LIMIT if _missing(plan, rows, again=False) else 0


def _measure(chosen: argparse.Namespace, plan: Plan, rows: Rows, clock: Clock) -> None:
    """Everything that has no row yet. Raises BaseFailed and HarnessError."""
    identity = plan.base.identity
    assert identity is not None, "a described base has an identity"
    rows.require_same(identity.config_id, identity.code_id, chosen.synthetic)

    noise_model = load_noise_model(chosen.noise_model, Store(chosen.store))

    def noise(device: str) -> Noise | None:
        return noise_of(plan.base, device, noise_model)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        sitting = Sitting(chosen, plan, rows, noise, Path(folder), running)
        sitting.measure(_missing(plan, rows, again=chosen.again), clock)
    if rows.sessions:
        rows.learn(noise(rows.session.device))


def _missing(plan: Plan, rows: Rows, *, again: bool) -> list[Toggle]:
    """The toggles of the plan without a row; with `again` those whose row is a failure too."""
    done = {row.name for row in rows.rows if row.failed is None or not again}
    return [toggle for toggle in plan.toggles if toggle.name not in done]


def noise_of(base: Description, device: str, noise_model: NoiseModel) -> Noise | None:
    """The noise model's SD of launches on this device, of this recipe where it has one; null:
    none.
    """
    bench = NoiseScope(
        scale=scale_from_derived(NativeTrainer.name, base.derived or {}), device=device
    )
    row = noise_model.of_launches(SPEED, bench, "launch")
    if row is None:
        return None
    whose = "" if row.scale == bench.scale else ", of another recipe"
    return Noise(sd=row.sd, df=row.known.df, origin=f"{row.origin} noise model{whose}: {row.scale}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.toggles", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("base", type=Path, nargs="?", default=BASE, help="YAML or JSON")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="in every configuration"
    )
    parser.add_argument("--tricks", nargs="+", default=[], help="these instead of all")
    parser.add_argument("--out", type=Path, required=True, help="the rows, as lines of JSON")
    parser.add_argument("--again", action="store_true", help="also what has failed before")
    parser.add_argument(
        "--together", type=positive, default=3, help="toggles that start and compile together"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of windows a toggle")
    parser.add_argument("--turn-seconds", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end in time")
    parser.add_argument("--ready-minutes", type=float, default=30.0, help="limit of a start")
    parser.add_argument("--synthetic", action="store_true", help="one random batch, no data")
    parser.add_argument(
        "--noise-model",
        type=Path,
        default=Path("baselines/noise.csv"),
        help="beside the shipped rows",
    )
    parser.add_argument("--store", type=Path, default=Path("runs"), help="of runs and gates")
    return parser


if __name__ == "__main__":
    sys.exit(main())
