"""Bridges the watch descriptor of a trainer to other nodes through its standard input.

Usage: `python stdin_bridge.py srun ... -m model.train ... --watch-fd N`, started like a trainer.

A descriptor cannot be passed to another machine, but srun copies its input to every task on every
node, and torchrun leaves it to its ranks. So the trainers get `--watch-fd 0`, and this process
holds the only writing end of that input. The input ends, and the trainers leave,

- on SIGTERM or SIGINT, because srun would kill its tasks without time for a checkpoint;
- when the harness is gone: its end of descriptor N is closed;
- when this process is killed. srun runs in a session of its own, so it survives a kill of the
  harness's process group until its trainers have left. It inherits all descriptors, including the
  lock on the run directory.

A trainer that steps on request (`pace`) reads the requests from the same input: if the input of
this process is a pipe, its content is forwarded, and no descriptor is watched.

This file runs as a script next to a trainer of any checkout and uses the standard library only. If
a whole job is cancelled, the scheduler signals all nodes, and srun kills its tasks at once.
"""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence

WATCH = "--watch-fd"
STDIN = 0
CHUNK_BYTES = 4096


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code; 128 + N after signal N."""
    forwards = stat.S_ISFIFO(os.fstat(STDIN).st_mode)
    command, watched = split(argv, forwards)
    reading, writing = os.pipe()
    bridge = StdinBridge(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: bridge.end())
    process = subprocess.Popen(command, stdin=reading, close_fds=False, start_new_session=True)
    os.close(reading)
    if watched is not None:
        threading.Thread(target=bridge.end_with, args=(watched,), daemon=True).start()
    if forwards:
        threading.Thread(target=bridge.forward, args=(STDIN,), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


class StdinBridge:
    """The writing end of the trainers' standard input."""

    def __init__(self, writing: int) -> None:
        self.writing = writing  # from os.pipe: not inherited by children

    def end(self) -> None:
        """Closes the input, so that the trainers leave; may be called again."""
        writing, self.writing = self.writing, -1
        with contextlib.suppress(OSError):
            os.close(writing)

    def end_with(self, watched: int) -> None:
        """Closes the input once another descriptor is at its end of file."""
        with contextlib.suppress(OSError):
            while os.read(watched, CHUNK_BYTES):
                pass
        self.end()

    def forward(self, source: int) -> None:
        """Forwards the bytes of a descriptor, then closes the input."""
        with contextlib.suppress(OSError):  # the trainers have left, or the input is closed
            while rest := os.read(source, CHUNK_BYTES):
                while rest:
                    rest = rest[os.write(self.writing, rest) :]
        self.end()


def split(argv: Sequence[str], forwards: bool) -> tuple[list[str], int | None]:
    """Returns (the command to run, the descriptor that it was to watch).

    The command watches its standard input instead, or nothing if requests are forwarded there.
    """
    if len(argv) < 2 or argv[-2] != WATCH:
        return list(argv), None
    return [*argv[:-2], *(() if forwards else (WATCH, str(STDIN)))], int(argv[-1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
