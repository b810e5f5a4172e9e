"""A trainer that steps when told: `python -m model.pace --config FILE --out DIR [--synthetic]`.

Two of them, started from two configurations or two checkouts, take turns on one GPU: that is how
speeds are compared. A word a line comes in on stdin, one JSON object a line goes out on stdout;
everything meant for people goes to stderr.

    (at the start)  {"event": "ready", ...}     built, compiled, and three steps after the last
                                                compilation
    go N            {"event": "turn", ...}      N optimizer steps: `step_s` (N times, by GPU events
                                                or the CPU's clock), `loader_wait_s` (N),
                                                `sm_clock_mhz`, `recompiled`, `loss`,
                                                `peak_memory_bytes`
    same N          {"event": "turn", ...}      the same, but the last batch N times
    stop            (ends, completed)           so does the end of stdin
    anything else   {"event": "error", ...}     expected, got, remedy; nothing happens

`--at-step K` holds the schedule at another step than its first (model/resident.py says why it is
held). The directory gets what a run's gets, with a `turn` event for every turn. With `--watch-fd N`
a parent that dies is noticed during a turn and a compilation too.
"""

import json
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from model.process import Process, command_line, run_process
from model.stop import Stop

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
    from model.describe import identity_json
    from model.resident import Resident  # imports torch: a faulty configuration is said before

    resident = Resident(process, **options)
    try:
        ready = resident.make_ready(STARTED)
        identity = identity_json(process.config)
        if resident.synthetic:
            identity["data_id"] = None
        process.run.event("ready", **ready, identity=identity)
        line.say("ready", **ready, identity=identity)
        for word in line.words(process.stop):
            if word == "stop":
                return
            _obey(word, resident, line)
    finally:
        resident.close()


def _obey(word: str, resident: Any, line: "Line") -> None:
    asked = STEP_WORD.fullmatch(word)
    if asked is None:
        line.say(
            "error",
            expected="`go N` or `same N` with N from 1 to 999999999, or `stop`",
            got=repr(word),
            remedy="Send one of these words on a line of its own.",
        )
        return
    turn = resident.turn(int(asked["steps"]), "loader" if asked["name"] == "go" else "same")
    resident.record(turn)
    line.say("turn", **turn)


class Line:
    """Words in, answers out. Takes stdin and stdout for itself.

    Whatever else the process or a child of it prints goes to stderr, and nobody else can read a
    word away.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        self._in, self._out = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    def words(self, stop: Stop) -> Iterator[str]:
        """Every word until the end of input, waited for asleep. Raises Interrupted."""
        heard, ended = b"", False
        while not ended:
            if stop.reason is not None:
                raise _interrupted(stop.reason)
            if not select.select([self._in], [], [], LOOK_S)[0]:
                continue
            chunk = os.read(self._in, CHUNK_BYTES)
            ended = not chunk
            *lines, heard = (heard + chunk).split(b"\n")
            for line in [*lines, heard] if ended and heard else lines:
                yield line.decode(errors="replace").strip()

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
