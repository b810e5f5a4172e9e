"""Reads what training runs left behind, whoever made them, into one form.

    logged          one run as a log tells it
    nanochat        text logs of nanochat
    modded_nanogpt  text logs of modded-nanogpt, with several runs in a file
    pattern         any other text log, by regular expressions
    recorded        this project's run directories, records, stores and studies
    sides           paths -> the runs of side A and of side B

Nothing is guessed in silence: a file of no known format, an empty one or one without a single
evaluation is an error that says what to do; a run that broke off is kept as one, with its reason.
"""

from harness.logs.logged import LoggedRun
from harness.logs.sides import read_sides

__all__ = ["LoggedRun", "read_sides"]
