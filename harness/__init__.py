"""Runs studies of a trainer, and says what each of its tricks is worth."""
