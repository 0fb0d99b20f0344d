"""Paired comparisons of tuned methods, and what they say of a reported effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.stats import bonferroni, mean_interval

LEVEL = 0.95
STEPS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
SEEN, NOT_SEEN, CONTRADICTED = "reproduced in kind", "not seen", "contradicted here"


class Effort(NamedTuple):
    """How much is run: kinds of problems, seeds that count, others for step sizes, vit-digits."""

    kinds: tuple[str, ...]
    seeds: tuple[int, ...]
    tuning: tuple[int, ...]
    digits: bool


FULL = Effort(("isotropic", "curved"), tuple(range(30)), tuple(range(1000, 1004)), True)
QUICK = Effort(("isotropic",), tuple(range(10)), (1000, 1001), False)


class Comparison(NamedTuple):
    """A number of each seed whose mean would have the sign that is reported.

    sign: +1 or -1 as reported; 0 where nothing is reported, so that no verdict is given. steps: the
    tuned step sizes of the methods compared. unit: "log ratio" of two positive numbers, or another.
    """

    problem: str
    where: str
    what: str
    values: Sequence[float]
    sign: int
    unit: str = "log ratio"
    steps: Sequence[float] = ()


class Finding(NamedTuple):
    """A comparison as it is stored: its mean, an interval, the verdict."""

    problem: str
    where: str
    what: str
    unit: str
    sign: int
    estimate: float
    low: float
    high: float
    seeds: int
    steps: Sequence[float]
    verdict: str


def judge(comparisons: Sequence[Comparison], level: float = LEVEL) -> list[Finding]:
    """Return the findings of one effect; its intervals hold together at `level` (Bonferroni)."""
    each = bonferroni(level, len(comparisons))
    found = []
    for one in comparisons:
        mean, low, high = mean_interval(one.values, each)
        word = verdict(one.sign, low, high)
        about = one.problem, one.where, one.what, one.unit, one.sign
        found.append(Finding(*about, mean, low, high, len(one.values), list(one.steps), word))
    return found


def verdict(sign: int, low: float, high: float) -> str:
    """Return whether an interval is on the reported side of zero, on the other, or holds it."""
    if sign == 0:
        return ""
    if low <= 0 <= high:
        return NOT_SEEN
    return SEEN if (low > 0) == (sign > 0) else CONTRADICTED


def tuned(
    score: Callable[[float, Sequence[int]], Array],
    seeds: Sequence[int],
    tuning: Sequence[int],
    steps: Sequence[float] = STEPS,
) -> tuple[Array, float]:
    """Return the scores of `seeds`, all > 0 and small if good, at the best step size, and that.

    score(lr, seeds): [seeds]. The step size has the least mean logarithm of the scores on the
    `tuning` seeds, so that every method has the same budget. ValueError: a tuning seed counts, or
    a run that counts diverged.
    """
    if set(tuning) & set(seeds):
        raise ValueError(f"tuning must hold no seed that counts, got {set(tuning) & set(seeds)}")
    means = [float(np.log(score(lr, tuning)).mean()) for lr in steps]
    lr = steps[int(np.argmin(means))]
    found = score(lr, seeds)
    if not np.all(np.isfinite(found)):
        raise ValueError(f"the runs that count must be finite; at lr = {lr} seeds diverged")
    return found, lr
