"""A `model.pace` child process: started, waited for, told to step, ended.

Whoever uses it is left with an answer or with `PaceFailed`, which tells what the child's
result.json and the end of its log say. A child has a process group of its own, and `kill` ends all
of it. If this process dies in any way, the child reads the end of its stdin and of its watch
descriptor, and leaves.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
CHUNK_BYTES = 65_536
END_S = 20.0  # for a child that was told to stop
POLL_S = 0.02
LOG_LINES = 15

Answer = dict[str, Any]


class PaceFailed(Exception):
    """A child that ended or answered otherwise than it should; says which and why."""


class Pace:
    """One child in `folder`, which gets its run directory and its log."""

    def __init__(
        self,
        name: str,
        base: Path,
        overrides: Sequence[str],
        folder: Path,
        *,
        words: Sequence[str] = (),
    ) -> None:
        """Starts it."""
        self.name, self.run_dir, self.log = name, folder / "run", folder / "log.txt"
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "model.pace"]
        command += ["--config", str(base.resolve()), "--out", str(self.run_dir), *words]
        command += [part for override in overrides for part in ("--set", override)]
        reading, self._watch = os.pipe()
        self.started_at = time.time()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--watch-fd", str(reading)],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
                pass_fds=[reading],
            )
        os.close(reading)
        self._heard = b""

    def ask(self, word: str, timeout_s: float) -> Answer:
        """The answer to a word; raises PaceFailed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then its answer is its end
            self._process.stdin.write(word.encode() + b"\n")
        return first_answers([self], timeout_s)[0]

    def file(self, name: str) -> Any:
        """A JSON file of the run directory; null where there is none."""
        path = self.run_dir / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def events(self) -> list[Answer]:
        """The run's events so far."""
        text = (self.run_dir / "events.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def stop(self) -> None:
        """Ends it politely; raises PaceFailed when it does not end as completed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"stop\n")
        deadline = time.monotonic() + END_S
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        result = self.file("result.json")
        self.kill()
        if result is None or result["status"] != "completed":
            raise PaceFailed(self.why("did not end when it was told to"))

    def kill(self) -> None:
        """Ends the whole group; does nothing when that is done already."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._watch)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def why(self, what: str) -> str:
        """A message about `what` happened: the result's reason and remedy, the end of the log."""
        result = self.file("result.json") or {}
        reason, remedy = result.get("reason") or "", result.get("remedy") or ""
        told = [text for text in (reason, remedy if remedy not in reason else "") if text]
        log = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        head = f"{self.name}: the trainer {what}; status {result.get('status', 'none')}"
        return "\n".join([head, *told, *(f"  | {line}" for line in log)])

    def fileno(self) -> int:
        """Of its answers, for select."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def take_answer(self) -> Answer | None:
        """An answer if a whole one has come; call it when there is something to read."""
        if b"\n" not in self._heard:
            chunk = os.read(self.fileno(), CHUNK_BYTES)
            if not chunk:
                self._wait_for_end()
                raise PaceFailed(self.why(f"ended with exit code {self._process.poll()}"))
            self._heard += chunk
        line, newline, rest = self._heard.partition(b"\n")
        if not newline:
            return None
        self._heard = rest
        answer: Answer = json.loads(line)
        if answer["event"] == "error":
            raise PaceFailed(self.why(f"refused a word: {answer}"))
        return answer

    def _wait_for_end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)

    def _has_ended(self) -> bool:
        """Looks without reaping, so that the group's id cannot be another's yet."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None


def first_answers(paces: Sequence[Pace], timeout_s: float) -> list[Answer]:
    """One answer of each, waited for together, so that the first failure is noticed at once."""
    answers: dict[int, Answer] = {}
    deadline = time.monotonic() + timeout_s
    while len(answers) < len(paces):
        waiting = [pace for index, pace in enumerate(paces) if index not in answers]
        left_s = deadline - time.monotonic()
        ready = select.select(waiting, [], [], left_s)[0] if left_s > 0 else []
        if not ready:
            raise PaceFailed(waiting[0].why(f"gave no answer in {timeout_s:.0f} s"))
        for pace in ready:
            answer = pace.take_answer()
            if answer is not None:
                answers[paces.index(pace)] = answer
    return [answers[index] for index in range(len(paces))]
