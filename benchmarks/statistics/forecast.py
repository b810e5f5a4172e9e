"""How often the forecast of a full job holds: `python -m benchmarks.statistics.forecast`.

Tables, with a fixed seed:

    coverage    runs of known laws, forecast from d8 .. d24: how often the 90 % interval holds the
                new run, and how wide it is. `off` is how far sizes lie off the law, `seeds` the
                runs a size and their SD. No floor and the highest one are the ends of what is
                thought possible, where an interval that averages over all holds least
    CORE        the same of CORE, which bends over val_bpb by so much, with its noise of 0.005
    Cerebras-GPT    a published family of seven sizes: each forecast from all smaller ones
    band        runs of a formula: how often a whole run without fault raises an alarm, and how
                early one is raised where the loss of every step is too high, or goes wrong half-way

`--noise` names a folder of real runs (`trajectories.parquet`: run_id, group_id, step, val_loss,
train_time_s; `runs.parquet`: run_id, track, complete). The band's runs then have their noise, else
that of an autoregression; and the mean step of whole runs is compared with that of a stretch near
their start, which is what a step test sees.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.random import Generator

from harness.full.forecast import estimate, metric_at
from harness.full.laws import Floats, Points, PowerLaw
from harness.full.loss_envelope import FRACTIONS, Curve, LossEnvelope, band
from harness.full.proxies import Proxy, Scale
from harness.full.scaling_law import fit

SEED = 11
TARGET_DEPTH = 24
LAWS = {"none": (0.0, 0.05), "0.15, steep": (0.15, 0.1), "0.30": (0.3, 0.09), "0.50": (0.5, 0.15)}
"""Floor in bits a byte, and the exponent of FLOPs above it."""
D12_BPB = 0.85  # every law meets it there
DEPTHS = ((8, 10, 12), (8, 10, 12, 14), (8, 9, 10, 12, 14, 16))
SEEDS = ((1, 0.0005), (2, 0.003))
OFF = (0.0, 0.003, 0.01)
CORE_BENDS, CORE_SD = (-2.0, 0.0, 5.0), 0.005

# Dey et al., Cerebras-GPT, arXiv 2304.03208: FLOPs of training and loss on Pile's test set in nats
# a token; some 4.35 bytes a token
CEREBRAS_FLOPS = (2.6e18, 1.3e19, 6.1e19, 2.8e20, 1.1e21, 6.3e21, 2.3e22)
CEREBRAS_NATS = (2.608, 2.349, 2.181, 1.997, 1.834, 1.704, 1.572)
CEREBRAS_NATS_PER_BPB = math.log(2) * 4.35

ONE_SHAPE = "track_3_optimization"
STEPS = 1200  # of a simulated run
NATS_PER_BPB = 3.3
BATCH_SD = 0.004  # of the loss of one step, relative: half a million tokens
FAULTS: dict[str, Callable[[float], float]] = {
    "none": lambda at: 1.0,
    "2 % too high": lambda at: 1.02,
    "5 % too high": lambda at: 1.05,
    "1 % at half": lambda at: 1.01 if at > 0.5 else 1.0,
    "2 % at half": lambda at: 1.02 if at > 0.5 else 1.0,
    "drift of 3 %": lambda at: 1 + 0.03 * at,
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--runs", type=int, default=400, help="simulated jobs a cell")
    words.add_argument("--noise", type=Path, help="a folder of real runs")
    asked = words.parse_args()
    _print(("depths", "seeds", "floor", "off", "holds", "above", "below", "width"))
    for depths in DEPTHS:
        for seeds, sd in SEEDS:
            for floor in LAWS:
                for off in OFF:
                    _print(coverage(depths, seeds, sd, floor, off, asked.runs))
    print()
    _print(("depths", "bend", "holds", "above", "below", "width"))
    for depths in DEPTHS:
        for bend in CORE_BENDS:
            _print(core_coverage(depths, bend, asked.runs))
    print()
    _print(("sizes", "forecast", "low", "high", "was", "holds"))
    for known in range(3, len(CEREBRAS_FLOPS)):
        _print(family(known))
    print()
    if asked.noise:
        _print(("runs", "whole/stretch", "SD"))
        _print(stretches(asked.noise))
        print()
    noise = real_noise(asked.noise) if asked.noise else simulated_noise
    _print(("depths", "fault", "alarms", "first at"))
    for depths in DEPTHS[1:]:
        for fault in FAULTS:
            _print(alarms(depths, fault, noise, max(20, asked.runs // 4)))


def _print(cells: Sequence[str]) -> None:
    print("  ".join(f"{cell:>14}" for cell in cells), flush=True)


def generator(*words: int) -> Generator:
    """The randomness of one cell."""
    return np.random.default_rng((SEED, *words))


# --- coverage -------------------------------------------------------------------------------------


def scale(depth: int) -> Scale:
    """Widths of 64 a layer and eight tokens a parameter, as nanochat's dial has them."""
    parameters = 12 * depth * (64 * depth) ** 2
    tokens = 8 * parameters
    return Scale(
        size=f"d{depth}", parameters=parameters, tokens=tokens, flops=6.0 * parameters * tokens
    )


def law_bpb(floor: str, depth: int) -> float:
    """Where a law stands at a depth."""
    lowest, exponent = LAWS[floor]
    times = scale(depth).flops / scale(12).flops
    return lowest + (D12_BPB - lowest) * times**-exponent


def runs_of(
    depth: int, seeds: int, sd: float, floor: str, off: float, random: Generator
) -> list[Proxy]:
    """Runs of one depth: the depth's own place off the law, and each run's noise about it."""
    mean = law_bpb(floor, depth) * (1 + off * random.standard_normal())
    values = mean * (1 + sd * random.standard_normal(seeds))
    return [
        Proxy(name=f"d{depth}-{seed}", scale=scale(depth), seed=seed, val_bpb=float(value))
        for seed, value in enumerate(values)
    ]


def coverage(
    depths: Sequence[int], seeds: int, sd: float, floor: str, off: float, runs: int
) -> tuple[str, ...]:
    """One line of the first table."""
    random = generator(len(depths), seeds)
    above = below = 0
    widths = []
    for _ in range(runs):
        proxies = [p for d in depths for p in runs_of(d, seeds, sd, floor, off, random)]
        new = runs_of(TARGET_DEPTH, 1, sd, floor, off, random)[0].val_bpb
        found = estimate(metric_at("val_bpb", proxies, scale(TARGET_DEPTH)))
        above, below = above + (new > found.high), below + (new < found.low)
        widths.append((found.high - found.low) / found.estimate)
    holds = 1 - (above + below) / runs
    named = f"d{depths[0]}..d{depths[-1]}: {len(depths)}"
    shares = (f"{100 * share:.0f} %" for share in (holds, above / runs, below / runs))
    return (named, f"{seeds} of {sd:.2%}", floor, f"{off:.1%}", *shares, f"{np.mean(widths):.1%}")


def with_core(proxy: Proxy, bend: float, random: Generator) -> Proxy:
    """The same run with a CORE: 0.14 at d12, and 0.9 more a bit there."""
    gained = D12_BPB - proxy.val_bpb
    core = 0.14 + 0.9 * (gained if bend == 0 else math.expm1(bend * gained) / bend)
    return msgspec.structs.replace(proxy, core=core + CORE_SD * random.standard_normal())


def core_coverage(depths: Sequence[int], bend: float, runs: int) -> tuple[str, ...]:
    """One line of the second table: two runs a depth, a floor of 0.30, sizes 0.3 % off the law."""
    random, kind = generator(len(depths)), (0.003, "0.30", 0.003)
    above = below = 0
    widths = []
    for _ in range(runs):
        made = [p for d in (*depths, TARGET_DEPTH) for p in runs_of(d, 2, *kind, random)]
        made = [with_core(proxy, bend, random) for proxy in made]
        found = estimate(metric_at("core", made[:-2], scale(TARGET_DEPTH)))
        new = made[-1].core or 0.0
        above, below = above + (new > found.high), below + (new < found.low)
        widths.append(found.high - found.low)
    holds = 1 - (above + below) / runs
    shares = (f"{100 * share:.0f} %" for share in (holds, above / runs, below / runs))
    return (
        f"d{depths[0]}..d{depths[-1]}: {len(depths)}",
        f"{bend:g}",
        *shares,
        f"{np.mean(widths):.3f}",
    )


def family(known: int) -> tuple[str, ...]:
    """The next size of the published family from the `known` smallest."""
    x = np.log(CEREBRAS_FLOPS)
    y = np.array(CEREBRAS_NATS) / CEREBRAS_NATS_PER_BPB
    points = Points(x=x[:known], y=y[:known], n=np.ones(known))
    found = estimate(fit(PowerLaw(), points).run([float(x[known])]))
    ends = (found.estimate, found.low, found.high, float(y[known]))
    return (str(known), *(f"{value:.4f}" for value in ends), str(found.holds(ends[-1])))


# --- the band -------------------------------------------------------------------------------------

Noise = Callable[[Generator], Floats]


def simulated_noise(random: Generator) -> Floats:
    """A run's deviation along its steps, relative: 0.05 % at the end, neighbours alike."""
    steps = random.standard_normal(len(FRACTIONS)) * 0.0005
    for look in range(1, len(steps)):
        steps[look] = 0.8 * steps[look - 1] + 0.6 * steps[look]
    return np.interp(_fractions(), FRACTIONS, steps)


@dataclass(frozen=True)
class Recorded:
    """Deviations of real runs from the mean of their group, relative, along the run."""

    curves: list[Floats]

    def __call__(self, random: Generator) -> Floats:
        return self.curves[random.integers(len(self.curves))]


def real_noise(folder: Path) -> Recorded:
    """Groups of ten runs or more that were evaluated at the same steps."""
    table = _table(folder, "trajectories")
    found: list[Floats] = []
    for _, group in table[table["step"] > 0].groupby("group_id"):
        wide = group.pivot_table(index="run_id", columns="step", values="val_loss").dropna(axis=1)
        if len(wide) < 10 or wide.shape[1] < 5:
            continue
        relative = wide.to_numpy() / wide.to_numpy().mean(axis=0) - 1
        spread = math.sqrt(len(wide) / (len(wide) - 1))  # the mean has each run's own share in it
        at = wide.columns.to_numpy() / wide.columns.max()
        found += [np.interp(_fractions(), at, one * spread) for one in relative]
    return Recorded(found)


def _table(folder: Path, name: str) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(folder / f"{name}.parquet").to_pandas()


def stretches(folder: Path) -> tuple[str, ...]:
    """The mean step of whole runs over that of a stretch from 5 to 17 % of them: its logarithm.

    Of the track whose steps are all of one shape.
    """
    runs = _table(folder, "runs")
    kept = runs[(runs["track"] == ONE_SHAPE) & (runs["complete"] == 1)]["run_id"]
    table = _table(folder, "trajectories")
    found = []
    for _, run in table[table["run_id"].isin(kept)].groupby("run_id"):
        at = run.sort_values("step")[["step", "train_time_s"]].to_numpy()
        first, last = max(1, len(at) // 20), max(2, len(at) // 6)
        if len(at) >= 10:
            (steps, early_s), (all_steps, all_s) = at[last] - at[first], at[-1] - at[first]
            found.append(math.log((all_s / all_steps) / (early_s / steps)))
    return str(len(found)), f"{np.mean(found):+.2%}", f"{np.std(found, ddof=1):.2%}"


def _fractions() -> Floats:
    return np.arange(1, STEPS + 1) / STEPS


def curve(depth: int, seed: int, noise: Noise, fault: str, random: Generator) -> Curve:
    """A loss as Hoffmann et al. fit it, of the tokens seen, and lower where the rate decays."""
    at, size = _fractions(), scale(depth)
    cooled = np.clip((at - 0.6) / 0.4, 0, 1)
    seen = at * size.tokens
    loss = 1.7 + 406 * size.parameters**-0.34 + 410 * seen**-0.28 - 0.12 * cooled
    loss = loss * (1 + noise(random)) * (1 + BATCH_SD * random.standard_normal(STEPS))
    loss = loss * np.array([FAULTS[fault](float(one)) for one in at])
    points = [(float(a), float(b)) for a, b in zip(at, loss, strict=True)]
    return Curve(name=f"d{depth}-{seed}", scale=size, points=points, nats_per_bpb=NATS_PER_BPB)


def alarms(depths: Sequence[int], fault: str, noise: Noise, runs: int) -> tuple[str, ...]:
    """One line of the last table: two proxies a depth."""
    random = generator(len(depths))
    first = []
    for _ in range(runs):
        proxies = [curve(d, seed, noise, "none", random) for d in depths for seed in (1, 2)]
        planned: LossEnvelope = band(proxies, scale(TARGET_DEPTH))
        target = curve(TARGET_DEPTH, 1, noise, fault, random)
        found = planned.outside(target.points)
        first += [found[0].look.fraction] if found else []
    named = f"d{depths[0]}..d{depths[-1]}: {len(depths)}"
    early = f"{np.median(first):.2f}" if first else "-"
    return named, fault, f"{len(first) / runs:.1%}", early


if __name__ == "__main__":
    main()
