"""The full job: what it will cost and reach, whether it may start, how it goes, what it proved."""
