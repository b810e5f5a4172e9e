"""Reports of gates and baselines, and the formats of CI systems."""
