"""One of several ranks that train or step on request, rank 1 slower than the others.

    torchrun --nproc-per-node N tests/model/slow_rank.py pace|train OPTION ...

The options are those of model.pace or model.train.
"""

import os
import sys
import time
from typing import Any

from model import pace, train
from model.trainer import Trainer

SLOW_RANK, SLOWER_BY_S = 1, 0.05
quick = Trainer.gradients


def slow(trainer: Trainer, *given: Any) -> Any:
    time.sleep(SLOWER_BY_S)
    return quick(trainer, *given)


if __name__ == "__main__":
    if os.environ["RANK"] == str(SLOW_RANK):
        Trainer.gradients = slow  # type: ignore[method-assign]
    main = {"pace": pace.main, "train": train.main}[sys.argv[1]]
    sys.exit(main(sys.argv[2:]))
