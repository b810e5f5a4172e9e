"""Records of runs, the store that keeps them, archives, and readers of other trainers' logs."""
