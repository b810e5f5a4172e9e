"""The errors a user of the harness can meet, and the exit codes every command ends with.

Each error has three parts: what was expected, what was there instead, and what to do about it.
Programmers' mistakes are plain assertions. First in the flow: everything may import this file.

    HarnessError           exit code 4 unless said otherwise
    ├── UsageError         exit code 2: a command line that cannot mean anything
    ├── StudyFileError     exit code 2: a study file: a key, a value, a combination, a file it names
    ├── WorkflowFileError  exit code 2: a workflow file that cannot be read or safely changed
    ├── TrainerError       a trainer that is missing, is another package, or breaks the contract
    ├── StoreError         a store: damaged, in use, of another format
    │   └── DiskError      a disk that is full, a quota, a file that may not be written
    ├── ReportError        a study that cannot be reported
    └── ClusterError       a scheduler that is missing, refuses, or gave less than is needed
"""

PASS = 0
USAGE = 2
INCONCLUSIVE = 3
COULD_NOT_RUN = 4
STOPPED_AT_LIMIT = 5
REGRESSION = 10
# 1 is never used: Python ends with 1 on a traceback, and a traceback must not read as a verdict.

BISECT = {INCONCLUSIVE: 125, COULD_NOT_RUN: 125, STOPPED_AT_LIMIT: 125, USAGE: 128}
"""What `git bisect run` reads: 125 skips a commit, 128 ends the search, 10 is bad, 0 is good."""


class HarnessError(Exception):
    """What was expected, what was there, what to do. `path`: the option, field or file at fault."""

    exit_code = COULD_NOT_RUN

    def __init__(self, path: str, expected: str, got: str, hint: str) -> None:
        self.path, self.expected, self.got, self.hint = path, expected, got, hint
        super().__init__(path, expected, got, hint)

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}expected {self.expected}; got {self.got}. {self.hint}"


class UsageError(HarnessError):
    """A command line that cannot mean anything."""

    exit_code = USAGE


class StudyFileError(HarnessError):
    """A study file: a key, a value, a combination, or a file it names."""

    exit_code = USAGE


class WorkflowFileError(HarnessError):
    """A workflow file that cannot be read, or cannot be changed without losing something."""

    exit_code = USAGE


class TrainerError(HarnessError):
    """A trainer that is missing, is another package, or breaks the contract."""


class StoreError(HarnessError):
    """A store that is damaged, in use by another process, or of another format."""


class DiskError(StoreError):
    """A disk that is full, a quota that is used up, or a file that may not be written."""


class ReportError(HarnessError):
    """A study that cannot be reported."""


class ClusterError(HarnessError):
    """A scheduler that is missing, refuses, or gave less than is needed."""
