"""A trainer that steps on request, for A/B comparisons of speed.

The verb `pace` of the contract: a child process holds a compiled trainer, reads one request per
line from stdin (`go N`, `stop`) and replies with one JSON object per line. Two of them alternate on
one machine. A child has its own process group, which `kill` ends; if this process dies, the child
reads the end of its stdin and of its watch descriptor and leaves.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from harness import files
from harness.config.field_types import NotNegative, Positive
from harness.results.record import FROM_OUTSIDE
from harness.results.run_files import log_tail
from harness.runner.process import Stop, exit_code, kill_writers, signal_group
from harness.runner.variables import trainer_environment

CHUNK_BYTES = 65_536
END_S = 20.0  # for a child to end after `stop`
SETTLE_S = 1.0  # between the end of its replies and the end of the process
POLL_S = 0.02
STOP_POLL_S = 0.2
LONGEST_REPLY = 2**24  # bytes of one reply

Reply = dict[str, Any]


class _Ready(msgspec.Struct, kw_only=True, tag_field="event", tag="ready"):
    """What a gate needs of the first reply."""

    step_s: Positive
    batch_tokens: Positive
    reserved_memory_bytes: NotNegative | None = None
    device_memory_bytes: NotNegative | None = None
    compile_s: NotNegative | None = None
    device: str | None = None


class _Turn(msgspec.Struct, kw_only=True, tag_field="event", tag="turn"):
    """What a gate needs of a segment's reply; its loss may be NaN or unknown."""

    step_s: Annotated[list[Positive], msgspec.Meta(min_length=1)]
    loss: float | None = None
    loader_wait_s: list[NotNegative] = []
    peak_memory_bytes: NotNegative | None = None


class StepperFailed(Exception):
    """A child ended or sent an invalid reply. `status`: as in result.json.

    `killed`: a signal from outside ended it, so its code is not at fault.
    """

    def __init__(self, side: str, reason: str, status: str, log: str | None, killed: bool) -> None:
        super().__init__(reason)
        self.side, self.reason, self.status = side, reason, status
        self.log, self.killed = log, killed


class StepperStopped(Exception):
    """The command was stopped while it waited for a reply."""


class StepperProcess:
    """One child process, with `folder` as its run directory."""

    def __init__(self, side: str, command: Sequence[str], checkout: Path, folder: Path) -> None:
        """Starts the child. `command` lacks only the watch descriptor."""
        self.side, self.run_dir = side, folder
        self._log = folder.with_name(folder.name + ".log")
        reading, self._watch = os.pipe()
        with files.disk_errors(self._log), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--watch-fd", str(reading)],
                cwd=checkout,
                env=trainer_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
                pass_fds=[reading],
            )
        os.close(reading)
        self._buffer = b""
        self.answered = 0  # replies so far

    def ask(self, request: str, timeout_s: float, stop: Stop) -> Reply:
        """Sends a request and returns the reply. Raises StepperFailed and StepperStopped."""
        self._send(request)
        return wait_for_replies([self], timeout_s, stop)[0]

    def stop(self) -> None:
        """Sends `stop`, so that the child writes its result; kills it after END_S."""
        self._send("stop")
        deadline = time.monotonic() + END_S
        while exit_code(self._process) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.kill()

    def kill(self) -> None:
        """Kills the process group and closes all descriptors; may be called again."""
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
        """The child's environment.json; empty until it is written."""
        environment = files.read_json(self.run_dir / "environment.json")
        return environment if isinstance(environment, dict) else {}

    def fileno(self) -> int:
        """The descriptor of its replies, for select."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def take(self) -> Reply | None:
        """A reply, or None if none is complete. Raises StepperFailed at their end."""
        if b"\n" not in self._buffer:
            chunk = os.read(self.fileno(), CHUNK_BYTES)
            if not chunk:
                raise self.failed("ended before it replied")
            self._buffer += chunk
            if len(self._buffer) > LONGEST_REPLY:
                raise self.failed(f"replied more than {LONGEST_REPLY:,} bytes")
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return self._checked(line)

    def _checked(self, line: bytes) -> Reply:
        try:
            reply: Reply = files.parse_json(line.decode(errors="replace"))
            msgspec.convert(reply, _Ready | _Turn)
        except ValueError as error:
            text = f"replied {line.decode(errors='replace')[:200]!r} ({error})"
            raise self.failed(text) from None
        self.answered += 1
        return reply

    def failed(self, what: str) -> StepperFailed:
        """The error, with the reason in the child's result and the tail of its log."""
        deadline = time.monotonic() + SETTLE_S
        while (code := exit_code(self._process)) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        result = files.read_json(self.run_dir / "result.json")
        result = result if isinstance(result, dict) else {}
        ending = f" ({_ending(code)})" if code is not None else ""
        reason = str(result.get("reason") or f"it {what}{ending}")
        killed = code is not None and -code in FROM_OUTSIDE
        status = str(result.get("status") or "failed")
        return StepperFailed(self.side, reason, status, log_tail(self._log), killed)

    def _send(self, request: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading the reply then fails
            self._process.stdin.write(request.encode() + b"\n")


def _ending(code: int) -> str:
    with contextlib.suppress(ValueError):
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def wait_for_replies(paces: Sequence[StepperProcess], timeout_s: float, stop: Stop) -> list[Reply]:
    """One reply of each process, in order. Raises StepperFailed at the first failure."""
    replies: dict[int, Reply] = {}
    deadline = time.monotonic() + timeout_s
    while len(replies) < len(paces):
        if stop:
            raise StepperStopped
        waiting = [pace for index, pace in enumerate(paces) if index not in replies]
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise waiting[0].failed(f"did not reply within {timeout_s:.0f} s")
        for pace in select.select(waiting, [], [], min(left_s, STOP_POLL_S))[0]:
            if (reply := pace.take()) is not None:
                replies[paces.index(pace)] = reply
    return [replies[index] for index in range(len(paces))]
