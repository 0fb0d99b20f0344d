"""Intervals, tests, slopes, extrapolation and multiplicity: turning numbers into statements."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from decaf_theory.arrays import integer

Vector: TypeAlias = Any  # a NumPy array, float64


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


class Extrapolation(NamedTuple):
    """A limit h -> 0 and how far it may be off."""

    value: float
    error: float


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of independent values with its t-interval at `level`.

        mean +- t sqrt(sum (x - mean)^2 / (n (n - 1))),   t of n - 1 degrees of freedom

    Exact for normal values. ValueError: fewer than 2 values, non-finite ones, level outside (0, 1).

    Examples:
        >>> from decaf_theory import stats
        >>> low_to_high = stats.mean_interval([60.1, 61.3, 59.8, 60.9, 60.4])
        >>> [round(value, 2) for value in low_to_high]
        [60.5, 59.75, 61.25]
    """
    x = _finite("values", values, least=2)
    mean = float(x.mean())
    return _interval(mean, sqrt(float(x.var(ddof=1)) / len(x)), len(x) - 1, level)


def paired_interval(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of first - second, paired run by run, with its t-interval at `level`.

    ValueError as in `mean_interval`, and for unequal lengths.

    Examples:
        >>> from decaf_theory import stats
        >>> [round(value, 2) for value in stats.paired_interval([61, 62, 60], [60, 60, 59])]
        [1.33, -0.1, 2.77]
    """
    x, y = _pair("first", first, "second", second, least=2)
    return mean_interval(x - y, level)


def share_interval(hits: int, count: int, level: float = 0.95) -> Interval:
    """Return the share hits / count of independent trials with its Clopper-Pearson interval.

    It covers the probability at `level` at least, whatever it is. ValueError: count not an
    integer >= 1, hits not one in 0 ... count, level outside (0, 1).
    """
    from scipy import stats  # here: it is slow to load and rarely needed

    _require_level(level)
    n = integer("count", count, 1)
    k = integer("hits", hits, 0)
    if k > n:
        raise ValueError(f"hits must be <= count = {n}, got {k}")
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.isf(tail, k + 1, n - k)) if k < n else 1.0
    return Interval(k / n, low, high)


def log_log_slope(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Interval:
    """Return the least-squares slope of log y against log x with its t-interval at `level`.

    The interval is that of independent equal errors in log y; a curved line widens it. ValueError:
    fewer than 3 points, values that are not positive and finite, all x equal.

    Examples:
        >>> from decaf_theory import stats
        >>> round(stats.log_log_slope([10, 100, 1000], [1.0, 0.1, 0.01]).estimate, 6)
        -1.0
    """
    u, v = (np.log(z) for z in _positive_pair("x", x, "y", y, least=3))
    u, v = u - u.mean(), v - v.mean()
    spread = float(u @ u)
    if spread == 0:
        raise ValueError("x must hold at least two different values, got equal ones")
    slope = float(u @ v) / spread
    residual = v - slope * u
    degrees = len(u) - 2
    return _interval(slope, sqrt(float(residual @ residual) / degrees / spread), degrees, level)


def local_slopes(x: ArrayLike, y: ArrayLike) -> Vector:
    """Return log(y_{i+1}/y_i) / log(x_{i+1}/x_i), [n - 1]: slopes without a fit.

    ValueError: fewer than 2 points, values that are not positive and finite, equal neighbours in x.
    """
    u, v = (np.diff(np.log(z)) for z in _positive_pair("x", x, "y", y, least=2))
    if not u.all():
        raise ValueError("x must differ from point to point, got equal neighbours")
    return v / u


def richardson(values: Sequence[float], ratio: float = 2, order: float = 1) -> Extrapolation:
    """Return the limit of f(h) at h = 0 from values at h, h/ratio, h/ratio^2, ..., finest last.

    Assumes f(h) = f(0) + a h^order + b h^(2 order) + ...; each further value removes one more
    term. The error is the distance to the limit without the coarsest value (to the finest value
    itself if there are two): an estimate, not a bound. ValueError: fewer than 2 values,
    non-finite ones, ratio <= 1, order <= 0.

    Examples:
        >>> from decaf_theory import stats
        >>> round(stats.richardson([1.5, 1.25, 1.125]).value, 6)
        1.0
    """
    column = _finite("values", values, least=2)
    if not ratio > 1:
        raise ValueError(f"ratio must be > 1 (the steps get finer), got {ratio}")
    if not order > 0:
        raise ValueError(f"order must be > 0, got {order}")
    for power in range(1, len(column)):
        before = column
        column = before[1:] + np.diff(before) / (ratio ** (power * order) - 1)
    return Extrapolation(float(column[-1]), abs(float(column[-1] - before[-1])))


def bonferroni(level: float, rows: int) -> float:
    """Return the level at which each of `rows` intervals holds, so that all do at `level`.

        1 - (1 - level) / rows

    ValueError: level outside (0, 1), rows not an integer >= 1.
    """
    _require_level(level)
    return 1 - (1 - level) / integer("rows", rows, 1)


def paired_p(first: ArrayLike, second: ArrayLike) -> float:
    """Return the two-sided p-value of the paired t-test of equal means.

        P(|T| >= |mean| sqrt(n) / s),   T of n - 1 degrees of freedom, s that of first - second

    It is below 1 - level if and only if `paired_interval` at that level leaves zero out. Without
    any spread it is 0, or 1 if the mean is 0. ValueError as in `paired_interval`.
    """
    from scipy import stats  # here: it is slow to load and rarely needed

    x, y = _pair("first", first, "second", second, least=2)
    mean, error = float((x - y).mean()), float((x - y).std(ddof=1)) / sqrt(len(x))
    if error == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean) / error, len(x) - 1))


def holm(p_values: ArrayLike) -> list[float]:
    """Return Holm's adjusted p-values, in the order given.

        p_(i)' = max_{j <= i} min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    To reject where p' <= alpha keeps the chance of any false rejection at alpha, however the tests
    depend on each other (Holm 1979). ValueError: no value, or one outside [0, 1].
    """
    p = _finite("p_values", p_values, least=1)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"p_values must lie in [0, 1], got {p[(p < 0) | (p > 1)][0]}")
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * p[order]))
    return [float(x) for x in adjusted]


def detectable_difference(
    deviation: float, count: int, level: float = 0.95, power: float = 0.8
) -> float:
    """Return the least mean difference that a paired t-test at `level` finds with this power.

        delta:  P(|T'| > t) = power,   T' noncentral t, n - 1 degrees, centre delta sqrt(n) / s

    (T'^2 is noncentral F of 1 and n - 1 degrees: one tail, for both of T'.)
    deviation: s, the standard deviation of the paired differences; count: n. ValueError: deviation
    not finite or < 0, count not an integer >= 2, level outside (0, 1), power outside
    (1 - level, 1).
    """
    from scipy import optimize, stats  # here: they are slow to load and rarely needed

    _require_level(level)
    n = integer("count", count, 2)
    if not 0 <= deviation < np.inf:
        raise ValueError(f"deviation must be finite and >= 0, got {deviation}")
    if not 1 - level < power < 1:
        raise ValueError(f"power must lie in (1 - level, 1) = ({1 - level:g}, 1), got {power}")
    t = float(stats.t.isf((1 - level) / 2, n - 1))

    def lacking(centre: float) -> float:
        return float(stats.ncf.sf(t**2, 1, n - 1, centre**2)) - power

    beyond = 2 * t + 2
    while lacking(beyond) < 0:
        beyond *= 2
    return float(optimize.brentq(lacking, 0.0, beyond)) * deviation / sqrt(n)


def _interval(estimate: float, error: float, degrees: int, level: float) -> Interval:
    from scipy import stats  # here: it is slow to load and rarely needed

    _require_level(level)
    half = float(stats.t.isf((1 - level) / 2, degrees)) * error
    return Interval(estimate, estimate - half, estimate + half)


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")


def _finite(name: str, values: ArrayLike, least: int) -> Vector:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < least:
        raise ValueError(f"{name} must be at least {least} numbers in a row, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got {x[~np.isfinite(x)][0]}")
    return x


def _pair(first: str, x: ArrayLike, second: str, y: ArrayLike, least: int) -> tuple[Vector, Vector]:
    u, v = _finite(first, x, least), _finite(second, y, least)
    if len(u) != len(v):
        raise ValueError(f"{first} and {second} must have equal lengths, got {len(u)} and {len(v)}")
    return u, v


def _positive_pair(
    first: str, x: ArrayLike, second: str, y: ArrayLike, least: int
) -> tuple[Vector, Vector]:
    u, v = _pair(first, x, second, y, least)
    for name, values in ((first, u), (second, v)):
        if values.min() <= 0:
            raise ValueError(f"{name} must be positive for a logarithm, got {values.min()}")
    return u, v
