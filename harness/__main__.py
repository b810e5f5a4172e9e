"""Where the command starts and ends: every end is one of the exit codes of errors.py.

Exit code 1 is Python's own word for a traceback, so nothing here ends with it: a traceback goes to
a file, and the command ends with 4.
"""

import sys
import tempfile
import traceback

from harness import errors, redact

_INTERRUPTED = (1, 130)  # what the command-line library makes of Ctrl-C while nothing runs


def main() -> None:
    """Runs the command line; leaves by SystemExit with a code of errors.py, or with bisect's."""
    code = _ending()
    sys.exit(errors.BISECT.get(code, code) if "--bisect" in sys.argv else code)


def _ending() -> int:
    """The exit code of the command."""
    from harness.cli.app import app

    try:
        app()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else errors.PASS
        return errors.STOPPED_AT_LIMIT if code in _INTERRUPTED else code
    except errors.HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return errors.STOPPED_AT_LIMIT
    except Exception as error:
        return _unexpected(error)
    return errors.PASS


def _unexpected(error: Exception) -> int:
    """A short message, and the traceback in a file."""
    lines = "".join(traceback.format_exception(error))
    place = "below\n" + lines
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="harness-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as handle:
            handle.write(f"{redact.redact_argv(sys.argv)}\n{sys.version}\n{lines}")
        place = handle.name
    except OSError:
        pass  # a full disk must not hide the error
    print(
        f"error: unexpected {type(error).__name__}: {error}\n"
        f"Nothing recorded is lost. The traceback, for a bug report: {place}",
        file=sys.stderr,
    )
    return errors.COULD_NOT_RUN


if __name__ == "__main__":
    main()
