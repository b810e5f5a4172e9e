"""How often the drift watch raises a false alarm, and what it sees: `python -m benchmarks.drift`.

For series of several lengths, all simulated with a fixed seed: the share of looks at pure noise
that find a step; the step, a week old, that is called detectable; how often it is seen; how often
one night that is twenty SDs off is taken for a step; and false alarms where nights hang together.
"""

import argparse

import numpy as np

from harness.compare.drift import Floats, detectable_sds, steps_in

SEED = 7
LENGTHS = (12, 20, 40, 90, 365)
BLIP_SDS = 20.0
CORRELATION = 0.3  # of neighbouring nights
HEADER = ("nights", "false", "step/SD", "seen", "blip", f"false, r {CORRELATION}")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--looks", type=int, default=3000, help="simulated series a cell")
    looks = words.parse_args().looks
    print("  ".join(f"{name:>12}" for name in HEADER))
    for nights in LENGTHS:
        print("  ".join(f"{cell:>12}" for cell in row(nights, looks)))


def row(nights: int, looks: int) -> tuple[str, ...]:
    """One line of the table."""
    noise = np.random.default_rng((SEED, nights)).standard_normal((looks, nights))
    step = detectable_sds(nights)
    stepped, blipped = noise.copy(), noise.copy()
    stepped[:, -7:] += step
    blipped[:, nights // 2] += BLIP_SDS
    shares = [found(noise), found(stepped), found(blipped), found(correlated(noise))]
    false, seen, blip, hanging = (f"{100 * share:.1f} %" for share in shares)
    return str(nights), false, f"{step:.1f}", seen, blip, hanging


def found(series: Floats) -> float:
    """The share of series in which a step is found."""
    return float(np.mean([bool(steps_in(one.tolist())) for one in series]))


def correlated(noise: Floats) -> Floats:
    """The same noise as an autoregression: each night remembers the one before."""
    made = noise.copy()
    for night in range(1, noise.shape[1]):
        fresh = np.sqrt(1 - CORRELATION**2) * noise[:, night]
        made[:, night] = CORRELATION * made[:, night - 1] + fresh
    return made


if __name__ == "__main__":
    main()
