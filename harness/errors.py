"""The exceptions that the harness raises for its users, and the exit codes of its commands.

Every exception has three parts: what was expected, what was found instead, and what to do about it.
Errors of a programmer are plain assertions.

    HarnessError           exit code 4 unless noted otherwise
    ├── UsageError         exit code 2: an invalid command line
    ├── StudyFileError     exit code 2: an invalid study file, or a missing file that it names
    ├── WorkflowFileError  exit code 2: a workflow file that cannot be read or safely changed
    ├── TrainerError       a trainer that is missing, is another package, or breaks the contract
    │   └── DataError      training data that cannot be prepared
    ├── StoreError         a store that is damaged, in use, or of another format
    │   └── DiskError      a disk that is full, a used-up quota, a file that is not writable
    ├── ReportError        a study that cannot be reported
    └── ClusterError       a scheduler that is missing, refuses a job, or allocates too little
"""

PASS = 0
USAGE = 2
INCONCLUSIVE = 3
COULD_NOT_RUN = 4
STOPPED_AT_LIMIT = 5
REGRESSION = 10
# 1 is never used: Python ends with 1 after a traceback, which must not look like a result.

BISECT = {INCONCLUSIVE: 125, COULD_NOT_RUN: 125, STOPPED_AT_LIMIT: 125, USAGE: 128}
"""Exit codes for `git bisect run`: 125 skips a commit, 128 aborts, 10 is bad, 0 is good."""


class HarnessError(Exception):
    """The base class of all errors that users may see.

    Args:
        path: The option, field or file at fault; may be empty.
        expected: What was expected, without a final dot.
        got: What was found instead, without a final dot.
        hint: What to do about it, as a sentence.
    """

    exit_code = COULD_NOT_RUN

    def __init__(self, path: str, expected: str, got: str, hint: str) -> None:
        self.path, self.expected, self.got, self.hint = path, expected, got, hint
        super().__init__(path, expected, got, hint)

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}expected {self.expected}; got {self.got}. {self.hint}"


class UsageError(HarnessError):
    """An invalid command line."""

    exit_code = USAGE


class StudyFileError(HarnessError):
    """An invalid study file, or a missing file that it names."""

    exit_code = USAGE


class WorkflowFileError(HarnessError):
    """A workflow file that cannot be read, or cannot be changed without losing something."""

    exit_code = USAGE


class TrainerError(HarnessError):
    """A trainer that is missing, is another package, or breaks the contract."""


class DataError(TrainerError):
    """Training data that cannot be prepared."""


class StoreError(HarnessError):
    """A store that is damaged, in use by another process, or of another format."""


class DiskError(StoreError):
    """A disk that is full, a quota that is used up, or a file that is not writable."""


class ReportError(HarnessError):
    """A study that cannot be reported."""


class ClusterError(HarnessError):
    """A scheduler that is missing, refuses a job, or allocates too little."""
