"""Holds a trainer on several nodes by one line: its standard input, whose end tells it to leave.

`python tether.py srun ... -m model.train ... --watch-fd N`, started by the harness as any trainer.
A descriptor can't be handed to another machine, but srun carries its input to every task of every
node, and torchrun leaves it to its ranks. So the trainers get `--watch-fd 0`, and here is the only
writing end. It is closed

- on SIGTERM or SIGINT: srun itself would kill its tasks on SIGTERM, without time for a checkpoint;
- when the harness is gone, which the end of N says;
- by the kernel when this process is killed. Therefore srun has a session of its own: it outlives a
  kill of the harness's group until its trainers have left. It keeps every descriptor that was
  inherited, and with them the lock on the run directory.

A trainer that steps when told hears its words on the same input: where this process has a pipe
there, what comes in is carried on, and the trainer, which ends with the words, watches nothing.

Runs as a file of its own, whatever checkout the trainer is from: standard library only. A job that
is cancelled as a whole is signalled by the scheduler on all nodes, and srun then kills at once.
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


def main(words: Sequence[str]) -> int:
    """Runs the command to its end and returns its exit code; -N of a signal becomes 128 + N."""
    talks = stat.S_ISFIFO(os.fstat(STDIN).st_mode)
    command, watched = split(words, talks)
    reading, writing = os.pipe()
    line = StdinBridge(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: line.end())
    process = subprocess.Popen(command, stdin=reading, close_fds=False, start_new_session=True)
    os.close(reading)
    if watched is not None:
        threading.Thread(target=line.end_with, args=(watched,), daemon=True).start()
    if talks:
        threading.Thread(target=line.carry, args=(STDIN,), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


class StdinBridge:
    """The writing end of the trainers' input."""

    def __init__(self, writing: int) -> None:
        self.writing = writing  # a pipe of os.pipe: no child inherits it

    def end(self) -> None:
        """Tells the trainers to leave; the second time changes nothing."""
        writing, self.writing = self.writing, -1
        with contextlib.suppress(OSError):
            os.close(writing)

    def end_with(self, watched: int) -> None:
        """Ends it together with another descriptor."""
        with contextlib.suppress(OSError):
            while os.read(watched, CHUNK_BYTES):
                pass
        self.end()

    def carry(self, source: int) -> None:
        """Hands on what is said, and ends with it."""
        with contextlib.suppress(OSError):  # its trainers have left, or were told to
            while rest := os.read(source, CHUNK_BYTES):
                while rest:
                    rest = rest[os.write(self.writing, rest) :]
        self.end()


def split(words: Sequence[str], talks: bool) -> tuple[list[str], int | None]:
    """The command, and the descriptor that it was to watch: in its place it watches its input.

    One that is talked to there does without.
    """
    if len(words) < 2 or words[-2] != WATCH:
        return list(words), None
    return [*words[:-2], *(() if talks else (WATCH, str(STDIN)))], int(words[-1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
