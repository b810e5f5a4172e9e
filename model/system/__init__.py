"""What a run uses of its machine: CPU cores, GPU clocks and state, compile jobs, time limits."""
