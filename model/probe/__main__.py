"""`torchrun --nproc-per-node N -m model.probe --config FILE --out DIR`, or alone: DIR/probe.json.

    {"ranks": n, "complete": true, "findings": [...],
     "gpus": [{rank, name, uuid, memory_bytes, free_bytes, processes, power_limit_w, sm_clock_mhz,
               sm_clock_max_mhz, throttled, temperature_c, matmul_tflops, copy_gb_s, ...}],
     "cpus": [{rank, name, cores, threads, matmul_tflops, copy_gb_s}],
     "links": [[...]], "driver": ..., "cuda": ..., "nccl": ..., "torch": ...,
     "backends": {operation: kernel}, "all_reduce": [{bytes, seconds, bus_gb_s}]}

`gpus` is empty on CPUs, `cpus` on GPUs, `all_reduce` with one rank. Exit code 0 whatever was found;
1 where the probe was told to leave or its ranks could not meet, and the file says so; 2 for a
faulty configuration.
"""

import os
import sys
from collections.abc import Sequence

from model.configfile import parse_overrides
from model.describe import resolve
from model.errors import ModelError, missing_package
from model.probe.leave import Leaving, listen
from model.process import command_line
from model.ranks import from_environment
from model.stop import watched


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command_line("model.probe", __doc__).parse_args(argv)
    try:
        ranks, watch_fd = from_environment(), watched(arguments.watch_fd)
        overrides = parse_overrides(arguments.set)
        config, derived = resolve(str(arguments.config), overrides, ranks.count)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        listen(watch_fd)
        from model.probe.course import Course

        course = Course(config, derived, ranks, arguments.out)
        whole = course.run()
    except Leaving as told:
        print(f"interrupted: {told}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {missing_package(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {arguments.out} could not be written: {error}", file=sys.stderr)
        return 1
    if course.hangs:  # a thread that waits for a GPU or another rank would be waited for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if whole else 1)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
