"""How concentrated nonnegative numbers are, and the split of a corpus by it.

PRISM (arXiv 2601.07224) takes the Frobenius norms of a sample's gradient at all projection
matrices, one number per matrix, and sends samples whose norms are concentrated to reinforcement
and the others to supervised learning: the median of the corpus divides them. Read in notes of
others, so that which variance and which kurtosis the authors take is our choice; no scale matters.

Of m numbers a and n - m numbers b <= a, with p = m/n:

    gini                      m (n - m) (a - b) / (n (m a + (n - m) b))
    coefficient_of_variation  sqrt(m (n - m)) (a - b) / (m a + (n - m) b)
    kurtosis                  1 / (p (1 - p)) - 3

so that kurtosis says how many numbers stand out, or are missing, and not by how much.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from decaf_theory.arrays import Host


def gini(values: ArrayLike) -> Host:
    """Return the Gini coefficient along the last axis, [...], of values [..., n] >= 0.

        G = sum_ij |x_i - x_j| / (2 n sum_i x_i)

    In [0, 1 - 1/n]: 0 of equal numbers, also of zeros, 1 - 1/n of a single one that is not 0. The
    same of all multiples. ValueError: negative or non-finite values, none.
    """
    x, total = _unit(values)
    n = x.shape[-1]
    # each pair once: the i-th smallest is the larger one of i - 1 and the smaller one of n - i
    places = 2 * np.arange(n) - (n - 1)
    return np.asarray(np.sort(x, axis=-1) @ places / (n * total))


def coefficient_of_variation(values: ArrayLike) -> Host:
    """Return the standard deviation over the mean along the last axis, [...].

    Of values [..., n] >= 0, with the variance sum (x - mean)^2 / n. In [0, sqrt(n - 1)]: 0 of equal
    numbers, also of zeros, sqrt(n - 1) of a single one that is not 0. The same of all multiples.
    ValueError as in `gini`.
    """
    from scipy import stats  # here: it is slow to load and rarely needed

    x, _ = _unit(values)
    zeros = np.all(x == 0, axis=-1, keepdims=True)
    return np.asarray(stats.variation(np.where(zeros, 1.0, x), axis=-1))


def kurtosis(values: ArrayLike) -> Host:
    """Return Pearson's kurtosis along the last axis, [...], 3 of normal numbers.

        sum (x - mean)^4 / n / (sum (x - mean)^2 / n)^2

    Of values [..., n] >= 0. In [1, n - 2 + 1/(n - 1)]: 1 where half of them are one number and half
    another, the most where one differs from all others, whether it is the largest or the smallest.
    nan of equal numbers. The same of a x + b, a != 0. ValueError as in `gini`.
    """
    from scipy import stats  # here: it is slow to load and rarely needed

    x, _ = _unit(values)
    equal = np.all(x == x[..., :1], axis=-1)
    # of equal numbers scipy warns; their place is taken by others
    steps = np.arange(x.shape[-1]) == 0
    found = stats.kurtosis(np.where(equal[..., None], steps, x), axis=-1, fisher=False)
    return np.where(equal, np.nan, found)


STATISTICS: dict[str, Callable[[ArrayLike], Host]] = {
    "gini": gini,
    "cv": coefficient_of_variation,
    "kurtosis": kurtosis,
}


def median_split(values: ArrayLike) -> Host:
    """Return which of the values [n] are above their median, [n]: half of them at most.

    Those at the median are not. In PRISM these samples are for reinforcement, the others for
    supervised learning. Where a share p of the samples is wanted, no split into halves has more
    than 1 - |p - 1/2| of them right. ValueError: no values, or such that are not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"values must be at least one number in a row, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"values must be finite, got {x[~np.isfinite(x)][0]}; leave them out")
    return np.asarray(x > np.median(x))


def _unit(values: ArrayLike) -> tuple[Host, Host]:
    """Return the values over the largest, and their sum, 1 for zeros."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim < 1 or not x.shape[-1]:
        raise ValueError(f"values must be at least one number in a row, got shape {x.shape}")
    if not (np.isfinite(x) & (x >= 0)).all():
        bad = x[~(np.isfinite(x) & (x >= 0))][0]
        raise ValueError(f"values must be finite and >= 0, got {bad}; give norms")
    largest = x.max(axis=-1, keepdims=True)
    unit = x / np.where(largest > 0, largest, 1.0)  # so that no sum overflows
    total = unit.sum(axis=-1)
    return unit, np.where(total > 0, total, 1.0)
