"""The rules by which one metric is decided: where its limits lie, and a phrase that names the rule.

Every comparison goes through one engine (`harness.comparison.engine`) and differs only in its rule:
two sides alone, the arms of a study together, one look of several that were planned, or a look at
any time. A result carries the phrase of its rule, because two rules may decide the same numbers
differently and both be right.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from harness.stats import Correction, sequential
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast
from harness.stats.spending import Reading

CORRECTION_NAMES: dict[Correction, str] = {
    "none": "no correction",
    "dunnett": "Dunnett-Tamhane (T2)",
    "holm": "Holm",
    "benjamini_hochberg": "Benjamini-Hochberg",
}


class Rule(Protocol):
    """Where the limits of a difference lie."""

    @property
    def alpha(self) -> float:
        """The error rate of this decision."""

    @property
    def phrase(self) -> str: ...

    def critical(
        self, contrast: Contrast, known_sd: bool, spread: float, share: float = 1.0
    ) -> float:
        """Half the width of the interval in standard errors; NaN where nothing may be decided.

        `known_sd`: the SD is the noise model's or stated, not estimated from these runs. `spread`:
        the margin, or the SD of one run without a margin. `share`: of alpha, for one of several
        metrics.
        """

    def advice_alpha(self, contrast: Contrast, known_sd: bool, spread: float) -> float:
        """The error rate at which more runs would be judged."""


def level(alpha: float) -> str:
    """'95 %' of an alpha of 0.05."""
    return f"{100 * (1 - alpha):.6g} %"


@dataclass(frozen=True, kw_only=True)
class _ReadingRule:
    """A rule whose limits are quantiles of Student's t, at the error rate of one reading."""

    reading: Reading

    @property
    def alpha(self) -> float:
        return self.reading.rate

    def tail(self, contrast: Contrast, known_sd: bool, spread: float, alpha: float) -> float:
        """The one-sided probability beyond a limit that keeps the error rate `alpha`."""
        return alpha

    def critical(
        self, contrast: Contrast, known_sd: bool, spread: float, share: float = 1.0
    ) -> float:
        tail = self.tail(contrast, known_sd, spread, share * self.alpha)
        return math.nan if math.isnan(tail) else t_quantile(1 - tail, contrast.df)

    def advice_alpha(self, contrast: Contrast, known_sd: bool, spread: float) -> float:
        return self.reading.next.rate


@dataclass(frozen=True, kw_only=True)
class OnePair(_ReadingRule):
    """Two sides, read once: each one-sided limit holds at the rate of the reading."""

    @property
    def phrase(self) -> str:
        return f"one pair, one-sided {level(self.alpha)} ({self.reading.phrase})"


@dataclass(frozen=True, kw_only=True)
class PlannedLook(_ReadingRule):
    """Look number `look` of `looks` that were planned (O'Brien-Fleming).

    `information`: of each look, as a share of that of the last. `dfs`: the df of each look, for a
    known SD and for one estimated from the runs themselves; None where they do not change. `look`
    is None between two looks, where nothing is decided.
    """

    look: int | None
    looks: int
    information: tuple[float, ...] = ()
    dfs: tuple[tuple[float, ...] | None, tuple[float, ...] | None] = (None, None)

    @property
    def phrase(self) -> str:
        if self.look is None:
            return f"between two of {self.looks} planned looks"
        return (
            f"look {self.look} of {self.looks} (O'Brien-Fleming), one-sided {level(self.alpha)} "
            f"over all looks ({self.reading.phrase})"
        )

    def tail(self, contrast: Contrast, known_sd: bool, spread: float, alpha: float) -> float:
        if self.look is None:
            return math.nan
        df = self.dfs[0 if known_sd else 1]
        return sequential.look_tails(alpha, self.information, df)[self.look - 1]


@dataclass(frozen=True, kw_only=True)
class AlwaysValid(_ReadingRule):
    """A look at any time (mixture test), tuned for true effects of half the spread."""

    @property
    def phrase(self) -> str:
        return (
            f"always-valid mixture test, one-sided {level(self.alpha)} at every look "
            f"({self.reading.phrase})"
        )

    def tail(self, contrast: Contrast, known_sd: bool, spread: float, alpha: float) -> float:
        if not contrast.df > 0 or not spread:
            return alpha
        return sequential.mixture_tail(contrast.se, spread / 2, alpha)


@dataclass(frozen=True, kw_only=True)
class Simultaneous:
    """One of several arms that are compared with one base; `alpha` is two-sided.

    `value`: the critical value of this arm, from `stats.inference.intervals` over all arms.
    """

    alpha: float
    correction: Correction
    arms: int
    value: float

    @property
    def phrase(self) -> str:
        if self.arms < 2 or self.correction == "none":
            return f"each arm on its own, two-sided {level(self.alpha)}"
        over = f"{CORRECTION_NAMES[self.correction]} over {self.arms} arms"
        if self.correction == "benjamini_hochberg":
            return f"{over}, false coverage at most {100 * self.alpha:g} %"
        return f"{over}, simultaneous {level(self.alpha)}"

    def critical(
        self, contrast: Contrast, known_sd: bool, spread: float, share: float = 1.0
    ) -> float:
        assert share == 1.0, "the correction over arms stands in place of one over metrics"
        return self.value

    def advice_alpha(self, contrast: Contrast, known_sd: bool, spread: float) -> float:
        return self.alpha / 2
