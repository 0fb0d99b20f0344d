"""One line of a comparison: what was measured, its bound, and the verdict, or why there is none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from decaf_theory.bounds import StepSizeWarning
from decaf_theory.stats import bonferroni, mean_interval

LEVEL = 0.999  # of all intervals of a comparison together
INTERVALS = 64  # that a comparison may make use of, three a line
RESOLVED = 1e3  # roundings, below which a bound has no ratio
HOLDS, OPEN, VIOLATED = "holds", "open", "VIOLATED"


class Mean(NamedTuple):
    """An expectation over the noise: its estimate, and the ends of its interval."""

    value: float
    low: float
    high: float

    def map(self, f: Callable[[float], float]) -> Mean:
        """Return an increasing function of it."""
        return Mean(*map(f, self))


def exactly(value: float) -> Mean:
    """Return a number that is known."""
    return Mean(value, value, value)


def expected(values: np.ndarray, noisy: bool, among: int = 1) -> Mean:
    """Return the mean over runs [runs]; without noise it is exact, of one noisy run unknown.

    among: how many such means were looked at to choose this one.
    """
    value = float(np.mean(values))
    if not noisy:
        return exactly(value)
    if len(values) == 1:
        return Mean(value, -inf, inf)
    interval = mean_interval(values, bonferroni(LEVEL, INTERVALS * among))
    return Mean(value, min(value, interval.low), max(value, interval.high))


class Line(NamedTuple):
    """What a claim says of a run. measured and bound are None where `why` says what failed."""

    claim: str
    what: str
    measured: float | None = None
    bound: float | None = None
    verdict: str = ""
    why: str = ""
    slip: float = 0.0

    @property
    def ratio(self) -> float | None:
        """The tightness: measured over bound, None where the bound is of the size of rounding."""
        if self.measured is None or self.bound is None or self.bound <= RESOLVED * self.slip:
            return None
        return self.measured / self.bound if self.bound else None


def judged(
    claim: str, what: str, measured: Mean, bound: Callable[[int], float], slip: float
) -> Line:
    """Return the line of a bound, given at the estimate (0), low (1), high end (2) of its inputs.

    VIOLATED where the low end of what was measured is above the bound at the high end, by more than
    rounding; `holds` where the high end is below the bound at the low end; else it is open.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StepSizeWarning)
        limit = bound(0)
        low, high = (limit, limit) if measured.low == measured.high else (bound(1), bound(2))
    if not isfinite(limit):
        words = [str(each.message) for each in caught if each.category is StepSizeWarning]
        return Line(claim, what, why=f"step size: {_rule_of(words[0])}" if words else "infinite")
    verdict = OPEN
    if measured.low > high + slip:
        verdict = VIOLATED
    elif measured.high <= low + slip:
        verdict = HOLDS
    return Line(claim, what, measured.value, limit, verdict, slip=slip)


def _rule_of(message: str) -> str:
    """Return the rule in a StepSizeWarning: the text between its first words and its hint."""
    return message.split(": ", 1)[1].split(";")[0]


def at(k: int, mean: Mean) -> float:
    """Return the estimate, the low or the high end of a mean of squares, 0 at the least."""
    return max(0.0, mean[k])
