"""Checks of machines, data and plans before a job: what it requires, and what GPUs and links really
do."""
