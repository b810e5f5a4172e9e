"""Measures the coverage of the full job's forecasts: `python -m benchmarks.statistics.forecast`.

Prints four tables, with a fixed seed:

    coverage    runs of known laws, forecast from d8 .. d24: how often the 90 % interval contains
                the new run, and how wide it is. `off` is the SD of sizes about the law, `seeds` the
                runs per size and their SD. An irreducible loss (E) of none and 0.50 are near the
                ends of the plausible range
    CORE        the same for CORE, which is curved over val_bpb, with run-to-run noise of 0.005
    Cerebras-GPT    a published family of seven sizes: each forecast from all smaller ones
    envelope    simulated loss curves: how often a run without a fault raises an alert, and how
                early one is raised if the loss is too high from the start or from half-way

`--noise` names a folder of real runs (`trajectories.parquet`: run_id, group_id, step, val_loss,
train_time_s; `runs.parquet`: run_id, track, complete). The simulated curves then have their noise
instead of an autoregression's, and the mean step time of whole runs is compared with that of a
stretch near their start, which is what a step test measures.
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

from harness.full.forecast import estimate, forecast_metric
from harness.full.loss_envelope import FRACTIONS, Curve, plan_envelope
from harness.full.proxies import Proxy, Scale
from harness.full.scaling_law import Floats, LossLaw, Points, fit

SEED = 11
TARGET_DEPTH = 24
LAWS = {"none": (0.0, 0.05), "0.15, steep": (0.15, 0.1), "0.30": (0.3, 0.09), "0.50": (0.5, 0.15)}
"""E in bits per byte, and the exponent of FLOPs above it."""
D12_BPB = 0.85  # of every law
DEPTHS = ((8, 10, 12), (8, 10, 12, 14), (8, 9, 10, 12, 14, 16))
SEEDS = ((1, 0.0005), (2, 0.003))
OFF = (0.0, 0.003, 0.01)
CORE_CURVATURES, CORE_SD = (-2.0, 0.0, 5.0), 0.005

# Dey et al., Cerebras-GPT, arXiv 2304.03208: training FLOPs and loss on the Pile's test set in nats
# per token, at about 4.35 bytes per token
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=400, help="simulated jobs per cell")
    parser.add_argument("--noise", type=Path, help="a folder of real runs")
    options = parser.parse_args()
    _print(("depths", "seeds", "E", "off", "covers", "above", "below", "width"))
    for depths in DEPTHS:
        for seeds, sd in SEEDS:
            for law in LAWS:
                for off in OFF:
                    _print(coverage(depths, seeds, sd, law, off, options.runs))
    print()
    _print(("depths", "curvature", "covers", "above", "below", "width"))
    for depths in DEPTHS:
        for curvature in CORE_CURVATURES:
            _print(core_coverage(depths, curvature, options.runs))
    print()
    _print(("sizes", "forecast", "low", "high", "measured", "covers"))
    for known in range(3, len(CEREBRAS_FLOPS)):
        _print(family(known))
    print()
    if options.noise:
        _print(("runs", "whole/stretch", "SD"))
        _print(stretches(options.noise))
        print()
    noise = real_noise(options.noise) if options.noise else simulated_noise
    _print(("depths", "fault", "alerts", "first at"))
    for depths in DEPTHS[1:]:
        for fault in FAULTS:
            _print(alerts(depths, fault, noise, max(20, options.runs // 4)))


def _print(cells: Sequence[str]) -> None:
    print("  ".join(f"{cell:>14}" for cell in cells), flush=True)


def generator(*cell: int) -> Generator:
    """The random generator of one cell."""
    return np.random.default_rng((SEED, *cell))


# --- coverage -------------------------------------------------------------------------------------


def scale(depth: int) -> Scale:
    """A width of 64 per layer and 8 tokens per parameter, as nanochat's dial sets them."""
    parameters = 12 * depth * (64 * depth) ** 2
    tokens = 8 * parameters
    return Scale(
        size=f"d{depth}", parameters=parameters, tokens=tokens, flops=6.0 * parameters * tokens
    )


def law_bpb(law: str, depth: int) -> float:
    """val_bpb of a law at a depth."""
    lowest, exponent = LAWS[law]
    times = scale(depth).flops / scale(12).flops
    return lowest + (D12_BPB - lowest) * times**-exponent


def runs_of(
    depth: int, seeds: int, sd: float, law: str, off: float, random: Generator
) -> list[Proxy]:
    """Runs at one depth: a deviation of the depth from the law, and run-to-run noise."""
    mean = law_bpb(law, depth) * (1 + off * random.standard_normal())
    values = mean * (1 + sd * random.standard_normal(seeds))
    return [
        Proxy(name=f"d{depth}-{seed}", scale=scale(depth), seed=seed, val_bpb=float(value))
        for seed, value in enumerate(values)
    ]


def coverage(
    depths: Sequence[int], seeds: int, sd: float, law: str, off: float, runs: int
) -> tuple[str, ...]:
    """One line of the coverage table."""
    random = generator(len(depths), seeds)
    above = below = 0
    widths = []
    for _ in range(runs):
        proxies = [p for d in depths for p in runs_of(d, seeds, sd, law, off, random)]
        new = runs_of(TARGET_DEPTH, 1, sd, law, off, random)[0].val_bpb
        interval = estimate(forecast_metric("val_bpb", proxies, scale(TARGET_DEPTH)))
        above, below = above + (new > interval.high), below + (new < interval.low)
        widths.append((interval.high - interval.low) / interval.estimate)
    covers = 1 - (above + below) / runs
    named = f"d{depths[0]}..d{depths[-1]}: {len(depths)}"
    shares = (f"{100 * share:.0f} %" for share in (covers, above / runs, below / runs))
    return (named, f"{seeds} of {sd:.2%}", law, f"{off:.1%}", *shares, f"{np.mean(widths):.1%}")


def with_core(proxy: Proxy, curvature: float, random: Generator) -> Proxy:
    """The same run with CORE: 0.14 at d12, where its slope is 0.9 per bit."""
    gained = D12_BPB - proxy.val_bpb
    core = 0.14 + 0.9 * (gained if curvature == 0 else math.expm1(curvature * gained) / curvature)
    return msgspec.structs.replace(proxy, core=core + CORE_SD * random.standard_normal())


def core_coverage(depths: Sequence[int], curvature: float, runs: int) -> tuple[str, ...]:
    """One line of the CORE table: two runs per depth, E of 0.30, sizes 0.3 % off the law."""
    random, kind = generator(len(depths)), (0.003, "0.30", 0.003)
    above = below = 0
    widths = []
    for _ in range(runs):
        made = [p for d in (*depths, TARGET_DEPTH) for p in runs_of(d, 2, *kind, random)]
        made = [with_core(proxy, curvature, random) for proxy in made]
        interval = estimate(forecast_metric("core", made[:-2], scale(TARGET_DEPTH)))
        new = made[-1].core or 0.0
        above, below = above + (new > interval.high), below + (new < interval.low)
        widths.append(interval.high - interval.low)
    covers = 1 - (above + below) / runs
    shares = (f"{100 * share:.0f} %" for share in (covers, above / runs, below / runs))
    return (
        f"d{depths[0]}..d{depths[-1]}: {len(depths)}",
        f"{curvature:g}",
        *shares,
        f"{np.mean(widths):.3f}",
    )


def family(known: int) -> tuple[str, ...]:
    """Forecasts the next size of the published family from the `known` smallest."""
    x = np.log(CEREBRAS_FLOPS)
    y = np.array(CEREBRAS_NATS) / CEREBRAS_NATS_PER_BPB
    points = Points(x=x[:known], y=y[:known], n=np.ones(known))
    interval = estimate(fit(LossLaw(), points).run([float(x[known])]))
    values = (interval.estimate, interval.low, interval.high, float(y[known]))
    covers = interval.contains(values[-1])
    return (str(known), *(f"{value:.4f}" for value in values), str(covers))


# --- the loss envelope ----------------------------------------------------------------------------

Noise = Callable[[Generator], Floats]


def simulated_noise(random: Generator) -> Floats:
    """Relative deviation of a run along its steps: autocorrelated, SD 0.05 %."""
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
    """Log ratio of the mean step time of whole runs to that of a stretch from 5 to 17 % of them.

    For the track whose steps all have one shape.
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
    """Hoffmann et al.'s loss over tokens seen, lower where the learning rate decays."""
    at, size = _fractions(), scale(depth)
    decay = np.clip((at - 0.6) / 0.4, 0, 1)
    seen = at * size.tokens
    loss = 1.7 + 406 * size.parameters**-0.34 + 410 * seen**-0.28 - 0.12 * decay
    loss = loss * (1 + noise(random)) * (1 + BATCH_SD * random.standard_normal(STEPS))
    loss = loss * np.array([FAULTS[fault](float(one)) for one in at])
    points = [(float(a), float(b)) for a, b in zip(at, loss, strict=True)]
    return Curve(name=f"d{depth}-{seed}", scale=size, points=points, nats_per_bpb=NATS_PER_BPB)


def alerts(depths: Sequence[int], fault: str, noise: Noise, runs: int) -> tuple[str, ...]:
    """One line of the envelope table: two proxies per depth."""
    random = generator(len(depths))
    first = []
    for _ in range(runs):
        proxies = [curve(d, seed, noise, "none", random) for d in depths for seed in (1, 2)]
        envelope = plan_envelope(proxies, scale(TARGET_DEPTH))
        target = curve(TARGET_DEPTH, 1, noise, fault, random)
        found = envelope.outside(target.points)
        first += [found[0].look.fraction] if found else []
    named = f"d{depths[0]}..d{depths[-1]}: {len(depths)}"
    early = f"{np.median(first):.2f}" if first else "-"
    return named, fault, f"{len(first) / runs:.1%}", early


if __name__ == "__main__":
    main()
