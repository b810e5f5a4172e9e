"""The machine of a run: CPU cores, GPU clocks and state, compile jobs, timeouts."""
