"""One process of a probe: runs the phases of its rank and returns the exit code."""

import os
import sys
from pathlib import Path

from model.config import Config
from model.config.derive import Derived
from model.diagnostics.probe.shutdown import ProbeStopped, listen
from model.distributed.ranks import Ranks
from model.errors import missing_package
from model.runtime.stop import open_watch_fd


def run(config: Config, derived: Derived, ranks: Ranks, out: Path, watch_fd: int | None) -> int:
    """Returns 0 whatever was found; 1 where the probe was stopped, ranks did not connect or `out`
    is not writable.

    Raises ModelError for an invalid watch descriptor.
    """
    descriptor = open_watch_fd(watch_fd)
    try:
        listen(descriptor)
        from model.diagnostics.probe.phases import ProbePhases

        phases = ProbePhases(config, derived, ranks, out)
        whole = phases.run()
    except ProbeStopped as reason:
        print(f"interrupted: {reason}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {missing_package(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {out} could not be written: {error}", file=sys.stderr)
        return 1
    if phases.hangs:  # Python would wait for a hanging thread
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if whole else 1)
    return 0 if whole else 1
