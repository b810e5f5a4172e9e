"""Several ranks: tensor collectives, the status all-reduce of each step, straggler statistics."""
