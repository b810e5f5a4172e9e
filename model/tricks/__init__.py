"""One file per trick: formula, reason, source, behaviour when off, and module."""
