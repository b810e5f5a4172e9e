"""Several ranks: exchanges of tensors, one status for all at each step, statistics of slow
ranks."""
