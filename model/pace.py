"""A trainer that steps on request: `python -m model.pace --config FILE --out DIR [--synthetic]`.

Two of them, of two configurations or two checkouts, alternate on one GPU to compare their speeds.
Commands arrive on stdin, one a line; replies leave on stdout, one JSON object a line. Messages for
people go to stderr.

    (at the start)  {"event": "ready", ...}     built, compiled, and three steps after the last
                                                compilation
    go N            {"event": "turn", ...}      N optimizer steps: `step_s` (N times, by GPU events
                                                or the CPU's clock), `loader_wait_s` (N),
                                                `compute_s_by_rank` (a step's mean), `loss`,
                                                `sm_clock_mhz`, `recompiled`,
                                                `peak_memory_bytes`
    same N          {"event": "turn", ...}      the same, with the last batch N times
    stop            (ends, completed)           as does the end of stdin
    anything else   {"event": "error", ...}     expected, got, hint; has no effect

`--at-step K` holds the schedule at step K (see model/stepper.py). The directory has the files of a
run, with a `turn` event for every segment. `--watch-fd N` detects a dead parent during a segment
and a compilation too.

Under `torchrun --nproc-per-node N -m model.pace ...` the ranks step together: rank 0 reads commands
and sends replies, and the control process group passes commands to all ranks
(model/distributed/control_group.py). A lost rank, a signal to any rank or the end of torchrun ends
all of them.
"""

import json
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from model.distributed.ranks import leave_group
from model.runtime.process import Process, command_line, run_process

STARTED = time.time()  # before torch is imported, so that startup_s counts it
POLL_S = 0.25  # of requests to stop, between commands
CHUNK_BYTES = 4096
STEP_COMMAND = re.compile(r"(?P<name>go|same) (?P<steps>[1-9][0-9]{0,8})")


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_line("model.pace", __doc__)
    parser.add_argument("--at-step", type=int, default=0, metavar="K", help="of the schedule")
    parser.add_argument(
        "--synthetic", action="store_true", help="one random batch over and over; needs no data"
    )
    arguments = parser.parse_args(argv)
    stream = CommandStream()
    options = {"at_step": arguments.at_step, "synthetic": arguments.synthetic}
    return run_process(arguments, lambda process: _pace(process, stream, options))


def _pace(process: Process, stream: "CommandStream", options: dict[str, Any]) -> None:
    from model.config.resolve import identity_json
    from model.stepper import Stepper  # imports torch, after the configuration is checked

    stepper = Stepper(process, **options)
    try:
        ready = stepper.make_ready(STARTED)
        identity = identity_json(process.config)
        if stepper.synthetic:
            identity["data_id"] = None
        process.run.event("ready", **ready, identity=identity)
        is_sender = process.ranks.rank == 0
        if is_sender:
            stream.send("ready", **ready, identity=identity)
        for command in _commands(stream, process, stepper.control_group):
            if command == "stop":
                return
            reply = _execute(command, stepper)
            if is_sender:
                stream.send(**reply)
    finally:
        stepper.close()
        leave_group(process.ranks)


def _commands(stream: "CommandStream", process: Process, control_group: Any) -> Iterator[str]:
    """Every command until the end of input, the same on all ranks. Raises Interrupted."""
    stop, ended = process.stop, False
    while not ended:
        commands = stream.receive() if process.ranks.rank == 0 and stop.reason is None else []
        values = control_group.all_gather_object((commands, stream.ended, stop.reason is not None))
        if any(stopping for _, _, stopping in values):
            raise _interrupted(stop.request("another rank received a request to stop"))
        commands, ended, _ = values[0]
        yield from commands


def _execute(command: str, stepper: Any) -> dict[str, Any]:
    match = STEP_COMMAND.fullmatch(command)
    if match is None:
        return {
            "event": "error",
            "expected": "`go N` or `same N` with N from 1 to 999999999, or `stop`",
            "got": repr(command),
            "hint": "Send one of these commands on a line of its own.",
        }
    segment = stepper.segment(int(match["steps"]), "loader" if match["name"] == "go" else "same")
    stepper.record(segment)
    return {"event": "turn", **segment}


class CommandStream:
    """Receives commands on stdin and sends replies on stdout.

    Takes both descriptors, so that other output of the process and its children goes to stderr, and
    no child reads from stdin.
    """

    def __init__(self) -> None:
        self.ended = False
        """Whether stdin has ended."""
        self._partial = b""  # a command without its newline
        sys.stdout.flush()
        self._in, self._out = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    def receive(self) -> list[str]:
        """The commands that have arrived; waits at most POLL_S, without polling."""
        if not select.select([self._in], [], [], POLL_S)[0]:
            return []
        chunk = os.read(self._in, CHUNK_BYTES)
        self.ended = not chunk
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        if self.ended and self._partial:
            lines.append(self._partial)
        return [line.decode(errors="replace").strip() for line in lines]

    def send(self, event: str, **fields: Any) -> None:
        """Write one JSON object as a line. Raises Interrupted when stdout is closed."""
        rest = (json.dumps({"event": event, **fields}, allow_nan=False) + "\n").encode()
        try:
            while rest:
                rest = rest[os.write(self._out, rest) :]
        except BrokenPipeError:
            raise _interrupted("the reader of the replies is gone") from None


def _interrupted(reason: str) -> Exception:
    from model.trainer import Interrupted  # imports torch, which is loaded by then

    return Interrupted(reason)


if __name__ == "__main__":
    sys.exit(main())
