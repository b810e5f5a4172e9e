"""The runtime of a run: process and exit, run directory, environment, preflight, compilation."""
