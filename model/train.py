"""One run, one process: `python -m model.train --config FILE --out DIR [--watch-fd N]`.

Whatever happens, the directory says so (model/process.py has the ends and the exit codes).
"""

import sys
import time
from collections.abc import Sequence

from model.process import Process, command_line, run_process

STARTED = time.time()  # before torch is imported, so that startup_s counts it


def main(argv: Sequence[str] | None = None) -> int:
    return run_process(command_line("model.train", __doc__).parse_args(argv), _train)


def _train(process: Process) -> None:
    from model.trainer import Training  # imports torch: a faulty configuration is said before that

    Training(process.config, process.derived, process.run, process.stop).run_all(STARTED)


if __name__ == "__main__":
    sys.exit(main())
