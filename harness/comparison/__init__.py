"""Compares two sides of runs, metric by metric, with a noise model behind every interval."""
