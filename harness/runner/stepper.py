"""A trainer that steps when told: started, waited for, told to step, ended.

The verb `pace` of the contract: a child process holds a compiled trainer, takes a word a line on
stdin (`go N`, `stop`), and answers with one JSON object a line. Two of them take turns on one
machine, which is how speeds are compared. Whoever uses this is left with an answer or with
`PaceFailed`. A child has a process group of its own, and `kill` ends all of it; if this process
dies, the child reads the end of its stdin and of its watch descriptor, and leaves.

Beside `run`, which brings trainers to their end unasked. Knows no statistics.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import files
from harness.results.record import FROM_OUTSIDE
from harness.results.run_files import log_tail
from harness.runner.process import Stop, kill_writers, signal_group

CHUNK_BYTES = 65_536
END_S = 20.0  # for a child that was told to stop
SETTLE_S = 1.0  # between the last of its answers and its end
POLL_S = 0.02
LOOK_S = 0.2  # how often a wait looks whether it was asked to end

Reply = dict[str, Any]


class StepperFailed(Exception):
    """A child that ended or answered otherwise than it should; `status` as in a result.json.

    `killed`: a signal from outside ended it, which says nothing about its code.
    """

    def __init__(self, side: str, reason: str, status: str, log: str | None, killed: bool) -> None:
        super().__init__(reason)
        self.side, self.reason, self.status = side, reason, status
        self.log, self.killed = log, killed


class StepperStopped(Exception):
    """The harness was asked to end while it waited."""


class StepperProcess:
    """One child, with its run directory in `folder`."""

    def __init__(self, side: str, command: Sequence[str], checkout: Path, folder: Path) -> None:
        """Starts it. `command` lacks only its watch descriptor."""
        self.side, self.run_dir = side, folder
        self._log = folder.with_name(folder.name + ".log")
        reading, self._watch = os.pipe()
        with files.disk_errors(self._log), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--watch-fd", str(reading)],
                cwd=checkout,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
                pass_fds=[reading],
            )
        os.close(reading)
        self._heard = b""
        self.answered = 0  # answers so far

    def ask(self, word: str, timeout_s: float, stop: Stop) -> Reply:
        """The answer to a word. Raises PaceFailed and PaceStopped."""
        self._tell(word)
        return wait_for_replies([self], timeout_s, stop)[0]

    def stop(self) -> None:
        """Ends it politely, so that it writes its result; kills it when it takes too long."""
        self._tell("stop")
        deadline = time.monotonic() + END_S
        while self._code() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.kill()

    def kill(self) -> None:
        """Ends the whole group and closes everything; may be called again."""
        if self._process.returncode is None:
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
            kill_writers(self._log)  # ranks: torchrun gives each a session of its own
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
        if self._watch >= 0:
            os.close(self._watch)
            self._watch = -1

    def environment(self) -> Reply:
        """What the child wrote of its machine; empty before it has."""
        found = files.read_json(self.run_dir / "environment.json")
        return found if isinstance(found, dict) else {}

    def fileno(self) -> int:
        """Of its answers, for select."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def take(self) -> Reply | None:
        """An answer if a whole one has come. Raises PaceFailed at the end of them."""
        if b"\n" not in self._heard:
            chunk = os.read(self.fileno(), CHUNK_BYTES)
            if not chunk:
                raise self.failed("ended before it answered")
            self._heard += chunk
        line, newline, rest = self._heard.partition(b"\n")
        if not newline:
            return None
        self._heard = rest
        return self._checked(line)

    def _checked(self, line: bytes) -> Reply:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or answer.get("event") not in ("ready", "turn"):
            raise self.failed(f"answered {line.decode(errors='replace')[:200]!r}")
        self.answered += 1
        return answer

    def failed(self, what: str) -> StepperFailed:
        """The failure with what the child's result and the end of its log say of it."""
        deadline = time.monotonic() + SETTLE_S
        while (code := self._code()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        result = files.read_json(self.run_dir / "result.json")
        told = result if isinstance(result, dict) else {}
        ending = f" ({_ending(code)})" if code is not None else ""
        reason = str(told.get("reason") or f"it {what}{ending}")
        killed = code is not None and -code in FROM_OUTSIDE
        status = str(told.get("status") or "failed")
        return StepperFailed(self.side, reason, status, log_tail(self._log), killed)

    def _code(self) -> int | None:
        """Its exit code, without reaping: until then its group's id cannot be another's."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if self._process.returncode is not None:
            return self._process.returncode
        found = os.waitid(os.P_PID, self._process.pid, flags)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then its answer is its end
            self._process.stdin.write(word.encode() + b"\n")


def _ending(code: int) -> str:
    with contextlib.suppress(ValueError):
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def wait_for_replies(paces: Sequence[StepperProcess], timeout_s: float, stop: Stop) -> list[Reply]:
    """One answer of each, waited for together, so that the first failure is noticed at once."""
    found: dict[int, Reply] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < len(paces):
        if stop:
            raise StepperStopped
        waiting = [pace for index, pace in enumerate(paces) if index not in found]
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise waiting[0].failed(f"gave no answer in {timeout_s:.0f} s")
        for pace in select.select(waiting, [], [], min(left_s, LOOK_S))[0]:
            answer = pace.take()
            if answer is not None:
                found[paces.index(pace)] = answer
    return [found[index] for index in range(len(paces))]
