"""One run: `python -m model.train --config FILE --out DIR [--watch-fd N]`, or the same under
`torchrun --nproc-per-node N -m model.train ...` with one process a GPU.

Whatever happens, the directory says so (model/process.py has the ends and the exit codes).
"""

import sys
import time
from collections.abc import Sequence

from model.process import Process, command_line, run_process
from model.ranks import part

STARTED = time.time()  # before torch is imported, so that startup_s counts it


def main(argv: Sequence[str] | None = None) -> int:
    return run_process(
        command_line("model.train", __doc__).parse_args(argv), _train, several_ranks=True
    )


def _train(process: Process) -> None:
    from model.trainer import Training  # imports torch: a faulty configuration is said before that

    given = (process.config, process.derived, process.run, process.stop, process.ranks)
    try:
        Training(*given).run_all(STARTED)
    finally:
        part(process.ranks)


if __name__ == "__main__":
    sys.exit(main())
