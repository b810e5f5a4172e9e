"""A trainer that steps when told: `python -m model.pace --config FILE --out DIR [--synthetic]`.

Two of them, started from two configurations or two checkouts, take turns on one GPU: that is how
speeds are compared. A word a line comes in on stdin, one JSON object a line goes out on stdout;
everything meant for people goes to stderr.

    (at the start)  {"event": "ready", ...}     built, compiled, and three steps after the last
                                                compilation
    go N            {"event": "turn", ...}      N optimizer steps: `step_s` (N times, by GPU events
                                                or the CPU's clock), `loader_wait_s` (N),
                                                `compute_s_by_rank` (a step's mean), `loss`,
                                                `sm_clock_mhz`, `recompiled`,
                                                `peak_memory_bytes`
    same N          {"event": "turn", ...}      the same, but the last batch N times
    stop            (ends, completed)           so does the end of stdin
    anything else   {"event": "error", ...}     expected, got, hint; nothing happens

`--at-step K` holds the schedule at another step than its first (model/stepper.py says why it is
held). The directory gets what a run's gets, with a `turn` event for every turn. With `--watch-fd N`
a parent that dies is noticed during a turn and a compilation too.

Under `torchrun --nproc-per-node N -m model.pace ...` the ranks step together: rank 0 alone reads
words and answers, and what it reads all ranks hear in a council
(model/distributed/control_group.py). A lost rank, a signal to any rank or the end of torchrun ends
them all."""

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
LOOK_S = 0.25  # how often a trainer that waits for a word asks whether it was told to leave
CHUNK_BYTES = 4096
STEP_WORD = re.compile(r"(?P<name>go|same) (?P<steps>[1-9][0-9]{0,8})")


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_line("model.pace", __doc__)
    parser.add_argument("--at-step", type=int, default=0, metavar="K", help="of the schedule")
    parser.add_argument(
        "--synthetic", action="store_true", help="one random batch over and over; needs no data"
    )
    arguments = parser.parse_args(argv)
    line = Line()
    options = {"at_step": arguments.at_step, "synthetic": arguments.synthetic}
    return run_process(arguments, lambda process: _pace(process, line, options))


def _pace(process: Process, line: "Line", options: dict[str, Any]) -> None:
    from model.config.resolve import identity_json
    from model.stepper import Stepper  # imports torch: a faulty configuration is said before

    resident = Stepper(process, **options)
    try:
        ready = resident.make_ready(STARTED)
        identity = identity_json(process.config)
        if resident.synthetic:
            identity["data_id"] = None
        process.run.event("ready", **ready, identity=identity)
        speaks = process.ranks.rank == 0
        if speaks:
            line.say("ready", **ready, identity=identity)
        for word in _heard(line, process, resident.council):
            if word == "stop":
                return
            answer = _answer(word, resident)
            if speaks:
                line.say(**answer)
    finally:
        resident.close()
        leave_group(process.ranks)


def _heard(line: "Line", process: Process, council: Any) -> Iterator[str]:
    """Every word until the end of input, at all ranks alike. Raises Interrupted."""
    stop, ended = process.stop, False
    while not ended:
        words = line.look() if process.ranks.rank == 0 and stop.reason is None else []
        told = council.all_gather_object((words, line.ended, stop.reason is not None))
        if any(leaving for _, _, leaving in told):
            raise _interrupted(stop.request("another rank was told to leave"))
        words, ended, _ = told[0]
        yield from words


def _answer(word: str, resident: Any) -> dict[str, Any]:
    asked = STEP_WORD.fullmatch(word)
    if asked is None:
        return {
            "event": "error",
            "expected": "`go N` or `same N` with N from 1 to 999999999, or `stop`",
            "got": repr(word),
            "hint": "Send one of these words on a line of its own.",
        }
    turn = resident.turn(int(asked["steps"]), "loader" if asked["name"] == "go" else "same")
    resident.record(turn)
    return {"event": "turn", **turn}


class Line:
    """StepStatus in, answers out. Takes stdin and stdout for itself.

    Whatever else the process or a child of it prints goes to stderr, and nobody else can read a
    word away.
    """

    def __init__(self) -> None:
        self.ended = False
        """Whether there is no more input."""
        self._begun = b""  # a word whose line has not ended
        sys.stdout.flush()
        self._in, self._out = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    def look(self) -> list[str]:
        """The words that have come; waits for some, but not for long, and asleep."""
        if not select.select([self._in], [], [], LOOK_S)[0]:
            return []
        chunk = os.read(self._in, CHUNK_BYTES)
        self.ended = not chunk
        *lines, self._begun = (self._begun + chunk).split(b"\n")
        if self.ended and self._begun:
            lines.append(self._begun)
        return [line.decode(errors="replace").strip() for line in lines]

    def say(self, event: str, **fields: Any) -> None:
        """One JSON object on a line. Raises Interrupted when nobody reads any more."""
        rest = (json.dumps({"event": event, **fields}, allow_nan=False) + "\n").encode()
        try:
            while rest:
                rest = rest[os.write(self._out, rest) :]
        except BrokenPipeError:
            raise _interrupted("nobody reads the answers any more") from None


def _interrupted(reason: str) -> Exception:
    from model.trainer import Interrupted  # imports torch, which is loaded by the time of a word

    return Interrupted(reason)


if __name__ == "__main__":
    sys.exit(main())
