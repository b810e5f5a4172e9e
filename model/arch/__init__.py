"""Components of the architecture: linear layers, norms, parameters with their declarations."""
