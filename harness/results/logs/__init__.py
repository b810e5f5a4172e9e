"""Readers of what runs left behind: other trainers' logs, run directories, records, studies.

A file of no known format, an empty file and one without an evaluation are errors with a hint. A run
that broke off is kept, with its reason.
"""

from harness.results.logs.read import read_sides
from harness.results.logs.run_log import LoggedRun

__all__ = ["LoggedRun", "read_sides"]
