"""Parts that the architecture is built of: linear, norms, parameters with label and initial
values."""
