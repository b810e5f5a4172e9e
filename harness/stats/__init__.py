"""Intervals, decisions, power and sequential tests: numbers in, numbers out, no files."""

from typing import Literal

Correction = Literal["none", "dunnett", "holm", "benjamini_hochberg"]
"""The correction for several arms that are compared with one base."""
