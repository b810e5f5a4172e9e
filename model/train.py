"""One run: `python -m model.train --config FILE --out DIR [--watch-fd N]`, or the same under
`torchrun --nproc-per-node N -m model.train ...` with one process a GPU.

With `--resume` it continues from the newest intact checkpoint in DIR, with the same numbers as an
uninterrupted run (bit by bit on a CPU), or from its first step where there is none. Re-run the same
command to resume after any interruption. The directory records the outcome
(model/runtime/process.py lists statuses and exit codes).
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
    for option in ("other_code", "other_ranks"):
        if getattr(arguments, option) and not arguments.resume:
            parser.error(f"--{option.replace('_', '-')} requires --resume")
    return run_process(arguments, _train)


def _parser() -> argparse.ArgumentParser:
    parser = command_line("model.train", __doc__)
    parser.add_argument("--resume", action="store_true", help="resume the run in --out")
    parser.add_argument(
        "--other-code", action="store_true", help="resume a run that other code started"
    )
    parser.add_argument(
        "--other-ranks", action="store_true", help="resume a run of another number of ranks"
    )
    return parser


def _train(process: Process) -> None:
    from model.training import Training  # imports torch, after the configuration is checked

    given = (process.config, process.derived, process.run, process.stop)
    try:
        Training(*given, process.ranks, process.resume).run_all(STARTED)
    finally:
        leave_group(process.ranks)


if __name__ == "__main__":
    sys.exit(main())
