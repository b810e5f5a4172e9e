"""How often a normal run is named as an outlier, where no noise model knows the SD.

    python benchmarks/statistics/outlier_rates.py

Draws sides without outliers, and the same with one run 10 SDs away, and prints the shares in which
`find_outliers` names any run.
"""

import numpy as np

from harness.comparison.outliers import find_outliers
from harness.results.logs.run_log import LoggedRun

DRAWS = 10_000
SIZES = ((4, 1), (5, 1), (6, 1), (8, 1), (3, 3), (4, 4), (5, 5), (8, 8), (20, 20))
SHIFT_SDS = 10.0


def sides(values: list[list[float]]) -> list[list[LoggedRun]]:
    """Two sides of runs with these losses."""
    return [
        [
            LoggedRun(source=f"{label}{n}", family="toy", metrics={"val_loss": value}, steps=1)
            for n, value in enumerate(side)
        ]
        for label, side in zip("ab", values, strict=True)
    ]


def rates(n_a: int, n_b: int, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """The shares of draws in which a run is named: without an outlier, and with one in A."""
    named = [0, 0]
    for _ in range(draws):
        values = [list(rng.normal(10.0, 0.01, n)) for n in (n_a, n_b)]
        named[0] += bool(find_outliers(*sides(values), {"val_loss": None}))
        values[0][0] += SHIFT_SDS * 0.01
        found = find_outliers(*sides(values), {"val_loss": None})
        named[1] += any(one.source == "a0" for one in found)
    return named[0] / draws, named[1] / draws


def main() -> None:
    rng = np.random.default_rng(17)
    print("runs of A, B   named without an outlier   one 10 SDs away is named")
    for n_a, n_b in SIZES:
        none, one = rates(n_a, n_b, DRAWS, rng)
        print(f"{n_a:>9}, {n_b:<3}   {none:>24.2%}   {one:>24.1%}")


if __name__ == "__main__":
    main()
