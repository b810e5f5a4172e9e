"""Runs trainers: one process per run, on one GPU, several GPUs, or several nodes."""
