"""Measures the keyed initialisation of the reference recipe, in seconds.

python -m benchmarks.speed.init [DEPTH ...]
"""

import sys
import time
from pathlib import Path

from model.arch.init import initialise
from model.config.derive import derive
from model.config.reader import load_config
from model.gpt import GPT
from model.kernels import REFERENCE

BASE = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"


def main() -> None:
    print(f"{'depth':>5} {'parameters':>14} {'seconds':>8}")
    for depth in [int(text) for text in sys.argv[1:]] or [12, 24]:
        config = load_config(BASE, {"dial.depth": depth})
        derived = derive(config)
        model = GPT(config, derived.sizes, REFERENCE)
        began = time.perf_counter()
        initialise(model, seed=1)
        seconds = time.perf_counter() - began
        print(f"{depth:>5} {derived.parameters_total:>14,} {seconds:>8.2f}")


if __name__ == "__main__":
    main()
