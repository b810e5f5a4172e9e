"""A gate in the terminal, on a pull request, and in the formats of CI systems."""
