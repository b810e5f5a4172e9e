"""Checkpoints: their directory, staging into host memory, the asynchronous writer, resuming."""
