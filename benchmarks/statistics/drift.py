"""Measures the false alarms and the sensitivity of the drift watch, by simulation.

    python -m benchmarks.statistics.drift

For histories of several lengths, with a fixed seed: the share of checks of pure noise that report a
step; the step, a week old, that is called detectable, and how often it is detected; how often one
session that is 20 SDs off is reported as a step; and false alarms where sessions are correlated.
"""

import argparse

import numpy as np

from harness.comparison.drift import Floats, detectable_sds, steps_in

SEED = 7
LENGTHS = (12, 20, 40, 90, 365)
BLIP_SDS = 20.0
CORRELATION = 0.3  # of consecutive sessions
HEADER = ("sessions", "false", "step/SD", "seen", "blip", f"false, r {CORRELATION}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--looks", type=int, default=3000, help="simulated series a cell")
    looks = parser.parse_args().looks
    print("  ".join(f"{name:>12}" for name in HEADER))
    for sessions in LENGTHS:
        print("  ".join(f"{cell:>12}" for cell in row(sessions, looks)))


def row(sessions: int, looks: int) -> tuple[str, ...]:
    """One line of the table."""
    noise = np.random.default_rng((SEED, sessions)).standard_normal((looks, sessions))
    step = detectable_sds(sessions)
    stepped, blipped = noise.copy(), noise.copy()
    stepped[:, -7:] += step
    blipped[:, sessions // 2] += BLIP_SDS
    shares = [found(noise), found(stepped), found(blipped), found(correlated(noise))]
    false, seen, blip, false_correlated = (f"{100 * share:.1f} %" for share in shares)
    return str(sessions), false, f"{step:.1f}", seen, blip, false_correlated


def found(series: Floats) -> float:
    """The share of series in which a step is found."""
    return float(np.mean([bool(steps_in(one.tolist())) for one in series]))


def correlated(noise: Floats) -> Floats:
    """The same noise as an autoregression: each session depends on the one before."""
    made = noise.copy()
    for session in range(1, noise.shape[1]):
        fresh = np.sqrt(1 - CORRELATION**2) * noise[:, session]
        made[:, session] = CORRELATION * made[:, session - 1] + fresh
    return made


if __name__ == "__main__":
    main()
