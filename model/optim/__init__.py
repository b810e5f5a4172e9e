"""Optimizers by label: every parameter carries one label, and each label has one optimizer."""
