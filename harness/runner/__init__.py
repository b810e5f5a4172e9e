"""Runs trainers: one process per run, watched and ended, on one GPU, several, or several nodes."""
