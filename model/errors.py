"""The trainer's errors for users.

Each has three parts: expected, got, and a hint. Programming errors are plain assertions.

    ModelError
    ├── ConfigError     a configuration file, a key, a value or a combination of them
    ├── DataError       a data source, a token cache or a tokenizer
    ├── MachineError    a requested device, back-end or precision that cannot run
    └── RunError        a run directory or a checkpoint
        └── DamagedCheckpoint   a checkpoint that differs from what was written
"""

import errno
import sys
from collections.abc import Callable, Sequence

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of a file system without file locks
LOCK_HINT = (
    "Choose a folder on another file system, or have this one mounted with locks (Lustre: the "
    "option `flock`)."
)


class ModelError(Exception):
    """An error with `expected`, `got` and `hint`; `path` is the field or file concerned."""

    def __init__(self, *, expected: str, got: str, hint: str, path: str = "") -> None:
        self.expected, self.got, self.hint, self.path = expected, got, hint, path
        super().__init__(expected, got, hint, path)

    def __str__(self) -> str:
        return f"{self.reason}. {self.hint}"

    @property
    def reason(self) -> str:
        """The message without the hint and full stop; results store the hint separately."""
        where = f"{self.path}: " if self.path else ""
        return f"{where}expected {self.expected}; got {self.got}"

    def as_json(self) -> dict[str, str]:
        """The four parts, as `describe` prints them."""
        return {
            "path": self.path,
            "expected": self.expected,
            "got": self.got,
            "hint": self.hint,
        }


class ConfigError(ModelError):
    """A configuration file, a key, a value or a combination of them."""


class DataError(ModelError):
    """A data source, a token cache or a tokenizer."""


class MachineError(ModelError):
    """A requested device, back-end or precision that cannot run here."""


class RunError(ModelError):
    """A run directory or a checkpoint."""


class DamagedCheckpoint(RunError):
    """A checkpoint that differs from what was written; the previous one may be intact."""


def missing_package(error: ModuleNotFoundError) -> MachineError:
    """The error for a required package that is not installed."""
    return MachineError(
        expected=f"the package {error.name}, which the trainer needs",
        got="no such package in this Python",
        hint="Install the trainer's packages: pip install 'speedrun-harness[train]'.",
    )


def exit_code(command: Callable[[], object]) -> int:
    """Run a command; returns 0, or 2 after printing an error that users can meet."""
    try:
        command()
    except ModuleNotFoundError as error:
        print(f"error: {missing_package(error)}", file=sys.stderr)
        return 2
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class ConfigErrors(ConfigError):
    """All the faults of one configuration, found in one pass."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        assert errors, "ConfigErrors needs at least one error"
        self.errors = list(errors)
        first = errors[0]
        hints = dict.fromkeys(error.hint for error in errors)
        super().__init__(
            expected=first.expected, got=first.got, hint=" ".join(hints), path=first.path
        )

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)

    @property
    def reason(self) -> str:
        """The reasons of all errors, in one line."""
        return "; ".join(error.reason for error in self.errors)
