"""A full job in the terminal, as a page, and while it runs."""
