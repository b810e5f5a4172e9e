"""What surrounds training: the process and its end, run directory, environment, preflight,
compilation."""
