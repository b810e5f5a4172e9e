"""A study: its arms and design, the executor that makes its runs, and what each trick changes."""
