"""What each trick of the catalogue costs or saves in tokens/s, on one GPU: prints a table.

    python -m benchmarks.toggles --synthetic --resident 3 --minutes 9 --out toggles.jsonl
    python -m benchmarks.toggles gpt2.yaml --set dial.depth=8 --tricks muon smear --out few.jsonl

The base (`speedrun` at depth 12 unless another is named) is a `model.pace` process that stays for
the whole call. Beside it, up to --resident toggles at a time (`benchmarks.toggle_plan` says which
there are) start and compile together, as far as the memory lasts. Then base and toggles go around,
A B C C B A, until each toggle and its base together have run for --seconds; nothing else runs or
compiles meanwhile. A toggle that fails beside others is tried again with the base alone, so that it
is not blamed for their memory; one that fails there is a row with its reason.

Each row is appended to --out when its toggle ends. The same command goes on with what is missing,
after a kill or a call that ended at --minutes, on another machine of the same kind too. One launch
a toggle is a screen: `benchmarks.toggle_table` says what its interval means.

Exit code 0; 1 when the base failed; 2 wrong usage; 5 stopped at --minutes, the same command goes
on.
"""

import argparse
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import toggle_table
from benchmarks.pace import CHECKOUT
from benchmarks.step import positive
from benchmarks.toggle_plan import Plan, Toggle, planned
from benchmarks.toggle_rows import Noise, Rows
from benchmarks.toggle_sitting import BaseFailed, Clock, Sitting
from harness.compare.noise_model import NoiseModel
from harness.config.yaml_schema import parse_sets
from harness.errors import STOPPED_AT_LIMIT, HarnessError
from harness.gate.noise_sources import load_noise_model
from harness.gate.result import SPEED
from harness.results.recipe import NoiseScope, scale_from_derived
from harness.results.store import Store
from harness.runner.trainer import Description, NativeTrainer

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
        print(toggle_table.terminal(rows))
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
    return Noise(sd=row.sd, df=row.df, origin=f"{row.origin} noise model{whose}: {row.scale}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toggles", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("base", type=Path, nargs="?", default=BASE, help="YAML or JSON")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="in every configuration"
    )
    parser.add_argument("--tricks", nargs="+", default=[], help="these instead of all")
    parser.add_argument("--out", type=Path, required=True, help="the rows, as lines of JSON")
    parser.add_argument("--again", action="store_true", help="also what has failed before")
    parser.add_argument(
        "--resident", type=positive, default=3, help="toggles that start and compile together"
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
