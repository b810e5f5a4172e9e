"""The entry point of the command line, which always ends with an exit code of errors.py.

Python uses exit code 1 for a traceback, so the command never does: it writes the traceback to a
file and ends with 4.
"""

import errno
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from harness import errors, redact
from harness.escape import escape
from harness.output import tolerant_output

LONGEST_SHOWN = 100  # characters of a name
_INTERRUPTED = (1, 130)  # click's exit codes for Ctrl-C


class _Stopped(KeyboardInterrupt):
    """A signal asked the command to end.

    Python ends a process as if SIGINT had killed it where a plain KeyboardInterrupt has passed
    through code that is made of text, as every dataclass is while it is imported.
    """


def main() -> None:
    """Runs the command line; raises SystemExit with a code of errors.py, or of `--bisect`."""
    with tolerant_output():
        try:
            with _stopped_by_signals():
                code = _exit_code()
        except KeyboardInterrupt:  # while the command is imported, or while another error is shown
            code = _report_stop()
    sys.exit(errors.BISECT.get(code, code) if "--bisect" in sys.argv else code)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM stops a command as Ctrl-C does, also before it has started its first run.

    A shell starts a command in the background with Ctrl-C ignored: that stays so.
    """

    def stop(number: int, frame: object) -> None:
        raise _Stopped

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    numbers = [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code() -> int:
    """Runs the command and returns its exit code."""
    from harness.cli.app import app

    try:
        app(prog_name="harness")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else errors.PASS
        return errors.STOPPED_AT_LIMIT if code in _INTERRUPTED else code
    except errors.HarnessError as error:
        print(escape(f"error: {error}", "log"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _report_stop()
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(escape(f"error: {_too_long(error)}", "log"), file=sys.stderr)
            return errors.USAGE
        return _report_unexpected(error)
    return errors.PASS


def _report_stop() -> int:
    print("stopped; re-run the same command to resume", file=sys.stderr)
    return errors.STOPPED_AT_LIMIT


def _too_long(error: OSError) -> errors.UsageError:
    """The error for an argument that no file can have as its name."""
    name = str(error.filename or "")
    shown = name if len(name) <= LONGEST_SHOWN else name[:LONGEST_SHOWN] + " ..."
    return errors.UsageError(shown, "the name of a file", "one that is too long", "Name another.")


def _report_unexpected(error: Exception) -> int:
    """Prints a short message and writes the traceback to a file."""
    lines = "".join(traceback.format_exception(error))
    location = "below\n" + lines
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="harness-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as handle:
            handle.write(f"{redact.redact_argv(sys.argv)}\n{sys.version}\n{lines}")
        location = handle.name
    except OSError:
        pass  # a full disk must not hide the error
    print(
        escape(
            f"error: unexpected {type(error).__name__}: {error}\n"
            f"All records are kept. The traceback, for a bug report: {location}",
            "log",
        ),
        file=sys.stderr,
    )
    return errors.COULD_NOT_RUN


if __name__ == "__main__":
    main()
