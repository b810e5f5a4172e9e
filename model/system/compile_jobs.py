"""Processes that compile kernels while the trainer is built.

`model.runtime.precompile` starts them, and the first user of such a kernel calls `wait`. The module
imports no kernel, so that kernels can import it.
"""

import atexit
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LIMIT_S = 300  # longer than any kernel took; after it, kernels are compiled at their first call

_running: list[subprocess.Popen[str]] = []


def start(arguments: Sequence[str]) -> None:
    """Start `python -m` with these arguments from the checkout."""
    _running.append(
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def wait() -> None:
    """Wait until all processes have ended."""
    while _running:
        process = _running.pop()
        try:
            _, errors = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        if process.returncode:
            last = (errors.strip().splitlines() or ["no message"])[-1]
            print(f"precompiling failed, compiling when needed: {last}", flush=True)


@atexit.register
def _end() -> None:
    """Kill the processes of a trainer that exits early."""
    for process in _running:
        process.kill()
