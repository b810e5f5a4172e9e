"""What a run leaves: its record, the store that keeps it, archives, other trainers' logs."""
