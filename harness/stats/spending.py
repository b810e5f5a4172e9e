"""The error rate of each reading of one question.

A comparison that is inconclusive advises more runs, and whoever follows the advice reads again: at
a full alpha each time, the errors would add up. So the first reading of a question spends FIRST of
alpha, and all later readings share the rest: half of what is left each. The shares of any number of
readings add up to at most alpha, so the union bound holds whether the runs of earlier readings are
pooled with new ones or not. What the bound does not cover, that the number of new runs depends on
the runs read so far, is simulated by benchmarks/statistics/advice.py. Pure: numbers in, numbers
out.
"""

from dataclasses import dataclass

FIRST = 0.8  # most questions are read once, and keep most of their power
MOST_READINGS = 30  # before this one: its share of alpha is then 2e-10


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading of a question. `alpha`: of all its readings; `seen`: readings before this one."""

    alpha: float = 0.05
    seen: int = 0

    @property
    def rate(self) -> float:
        """The error rate of this reading."""
        assert self.seen >= 0, f"a number of readings, not {self.seen}"
        if self.seen == 0:
            return FIRST * self.alpha
        return (1 - FIRST) * self.alpha * 0.5**self.seen

    @property
    def next(self) -> "Reading":
        """The reading after this one."""
        return Reading(alpha=self.alpha, seen=self.seen + 1)

    @property
    def phrase(self) -> str:
        """'reading 1, 0.04 of alpha 0.05'."""
        return f"reading {self.seen + 1}, {self.rate:.3g} of alpha {self.alpha:g}"
