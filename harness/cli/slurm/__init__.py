"""Commands of the harness as jobs of a Slurm cluster."""
