"""The averaged gradient of two scalar agents in closed form, to 40 digits.

x+ = A x + a + noise of covariance Q with A of size 2, so that every moment is a sum of powers of
the two eigenvalues of A, and every average over t a geometric series: any T costs the same.
"""

from __future__ import annotations

from typing import NamedTuple

import mpmath

DIGITS = 40


class Pair(NamedTuple):
    """Agents f_i = h_i x^2 / 2 - b_i x with noise of variance v each, self weight w, start x0."""

    h: tuple[float, float]
    b: tuple[float, float]
    v: float
    w: float
    x0: float

    @property
    def gap(self):
        """F(x0) - F*, for h_1 + h_2 > 0."""
        h, b = sum(self.h) / 2, sum(self.b) / 2
        return h * (self.x0 - b / h) ** 2 / 2


def averaged_gradient(pair, lr, T, order):
    """Return (1/T) sum_{t<T} E|grad F(xbar_t)|^2, an mpf."""
    with mpmath.workdps(DIGITS):
        A, a, Q = _recursion(pair, mpmath.mpf(lr), order)
        roots, V = _eigen(A)
        rest = mpmath.lu_solve(mpmath.eye(2) - A, a)
        back = V**-1
        start = back * (mpmath.matrix([pair.x0, pair.x0]) - rest)
        noise = back * Q * back.T
        # the slope of F is (h_1 + h_2)(x_1 + x_2)/4 - (b_1 + b_2)/2
        row = mpmath.matrix([[sum(V[:, j]) * sum(pair.h) / 4 for j in range(2)]])
        level = sum(pair.h) * sum(rest) / 4 - mpmath.mpf(sum(pair.b)) / 2
        total = level**2
        for k in range(2):
            total += 2 * level * row[k] * start[k] * _series(roots[k], T)
            for j in range(2):
                both = roots[k] * roots[j]
                mean = _series(both, T)
                spread = noise[k, j] * (1 - mean) / (1 - both)
                total += row[k] * row[j] * (start[k] * start[j] * mean + spread)
        return +total


def _recursion(pair, lr, order):
    Pi = mpmath.matrix([[pair.w, 1 - pair.w], [1 - pair.w, pair.w]])
    H, b = mpmath.diag(pair.h), mpmath.matrix(pair.b)
    noise = lr**2 * pair.v * mpmath.eye(2)
    if order == "CB":
        return Pi - lr * H, lr * b, noise
    return Pi * (mpmath.eye(2) - lr * H), lr * Pi * b, Pi * noise * Pi.T


def _eigen(A):
    """Return the eigenvalues of a 2 x 2 matrix and its eigenvectors as columns."""
    half = (A[0, 0] + A[1, 1]) / 2
    root = mpmath.sqrt(((A[0, 0] - A[1, 1]) / 2) ** 2 + A[0, 1] * A[1, 0])
    values = (half + root, half - root)
    return values, mpmath.matrix([[A[0, 1]] * 2, [x - A[0, 0] for x in values]])


def _series(x, T):
    """Return (1/T) sum_{t<T} x^t for x != 1."""
    return (1 - x**T) / (1 - x) / T
