"""One run: `python -m model.train --config FILE --out DIR [--watch-fd N]`, or the same under
`torchrun --nproc-per-node N -m model.train ...` with one process a GPU.

With `--resume` it goes on from the newest whole checkpoint in DIR, to the same numbers as if it had
never been away (bit by bit on a CPU), and from its first step where there is none yet: whatever
killed the run, the same command goes on. Whatever happens, the directory says so
(model/runtime/process.py has the ends and the exit codes).
"""

import argparse
import sys
import time
from collections.abc import Sequence

from model.distributed.ranks import leave_group
from model.runtime.process import Process, command_line, run_process

STARTED = time.time()  # before torch is imported, so that startup_s counts it


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.other_code and not arguments.resume:
        parser.error("--other-code belongs to --resume")
    return run_process(arguments, _train)


def _parser() -> argparse.ArgumentParser:
    parser = command_line("model.train", __doc__)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--other-code", action="store_true", help="resume what other code has begun"
    )
    return parser


def _train(process: Process) -> None:
    from model.training import Training  # imports torch: a faulty configuration is said before that

    given = (process.config, process.derived, process.run, process.stop)
    try:
        Training(*given, process.ranks, process.resume).run_all(STARTED)
    finally:
        leave_group(process.ranks)


if __name__ == "__main__":
    sys.exit(main())
