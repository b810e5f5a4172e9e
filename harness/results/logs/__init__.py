"""Readers of runs: logs of other trainers, run directories, records and studies.

A file of an unknown format, an empty file and a log without an evaluation raise LogError. A run
that ended early is kept, with the reason.
"""

from harness.results.logs.read import read_sides
from harness.results.logs.run_log import LoggedRun

__all__ = ["LoggedRun", "read_sides"]
