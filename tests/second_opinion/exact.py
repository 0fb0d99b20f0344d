"""The worked examples and two scalar problems in fractions or 50 digits.

Matrices are NumPy arrays of `Fraction`; nothing here is rounded but the functions of mpmath.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import mpmath
import numpy as np

DIGITS = 50


class Mix(NamedTuple):
    """A weighted mix of products of rank r = 1 and what averaging or truncating it leaves."""

    interference: np.ndarray  # M - Bbar Abar
    error: np.ndarray  # M - TSVD_1(M)
    gap: np.ndarray  # TSVD_1(M) - Bbar Abar


def square(X):
    """Return |X|_F^2."""
    return (X * X).sum()


def two_units(p, d=2, k=2):
    """Return W1: products E_11 and E_22 of size d x k with weights p > 1/2 and 1 - p.

    M = diag(p, 1 - p) has its singular value decomposition written on it: TSVD_1(M) = p E_11.
    """
    B, A = fractions(np.eye(d, 2, dtype=int)), fractions(np.eye(2, k, dtype=int))
    weights = np.array([p, 1 - p], dtype=object)
    M = (B * weights) @ A
    mean_product = np.outer(B @ weights, weights @ A)
    kept = np.zeros_like(M)
    kept[0, 0] = M[0, 0]
    return Mix(M - mean_product, M - kept, kept - mean_product)


def scalar_pair(lr):
    """Return W2: (interference, product after averaging, product one step of size lr later).

    Agents (a, b) = (1, 1) and (2, 1/2) with weights 1/2, loss (a b - 1)^2 / 2.
    """
    agents = ((Fraction(1), Fraction(1)), (Fraction(2), Fraction(1, 2)))
    a, b = (sum(x) / 2 for x in zip(*agents, strict=True))
    slope = a * b - 1
    after = (a - lr * b * slope) * (b - lr * a * slope)
    return sum(x * y for x, y in agents) / 2 - a * b, a * b, after


class Scalars(NamedTuple):
    """N agents with f_i = h_i (x - z_i)^2 / 2, noise of variance v_i, mixing Pi, in fractions."""

    h: np.ndarray
    z: np.ndarray
    v: np.ndarray
    Pi: np.ndarray

    def recursion(self, lr, order):
        """Return A, a, Q of x+ = A x + a + noise of covariance Q."""
        H, step, noise = np.diag(self.h), lr * self.h * self.z, lr**2 * np.diag(self.v)
        if order == "CB":
            return self.Pi - lr * H, step, noise
        move = fractions(np.eye(len(self.h), dtype=int)) - lr * H
        return self.Pi @ move, self.Pi @ step, self.Pi @ noise @ self.Pi.T

    def quantities(self, mean, cov):
        """Return (E|grad F(xbar)|^2, E Xi)."""
        N = len(self.h)
        row = np.full(N, self.h.mean() / N, dtype=object)
        gradient = (row @ mean - (self.h * self.z).mean()) ** 2 + row @ cov @ row
        off = mean - mean.mean()
        spread = (off * off).mean() + (np.trace(cov) - cov.sum() / N) / N
        return gradient, spread

    def path(self, start, lr, order, steps):
        """Return the quantities before each of `steps` steps from the points `start`."""
        A, a, Q = self.recursion(lr, order)
        mean, cov, found = start, 0 * Q, []
        for _ in range(steps):
            found.append(self.quantities(mean, cov))
            mean, cov = A @ mean + a, A @ cov @ A.T + Q
        return found

    def rest(self, lr, order):
        """Return the quantities of the stationary state: (I - A) m = a, C = A C A' + Q."""
        A, a, Q = self.recursion(lr, order)
        mean = solve(fractions(np.eye(len(a), dtype=int)) - A, a)
        both = np.kron(A, A)
        cov = solve(fractions(np.eye(len(both), dtype=int)) - both, Q.reshape(-1))
        return self.quantities(mean, cov.reshape(Q.shape))


def opposite_targets():
    """Return W3: targets +-1, unit noise and Pi = [[3/4, 1/4], [1/4, 3/4]]."""
    one = fractions([1, 1])
    return Scalars(one, fractions([1, -1]), one, fractions([[3, 1], [1, 3]]) / 4)


def factor_hessian(a, b, s, w):
    """Return the Hessian of (s a b - w)^2 / 2 in (a, b)."""
    cross = s * (2 * s * a * b - w)
    return np.array([[s**2 * b**2, cross], [cross, s**2 * a**2]], dtype=object)


def factor_gradient(a, b, s, w):
    """Return the gradient of (s a b - w)^2 / 2 in (a, b)."""
    slope = s * (s * a * b - w)
    return np.array([slope * b, slope * a], dtype=object)


def is_semidefinite(M):
    """Return whether a symmetric 2 x 2 matrix is >= 0: diagonal and determinant are."""
    return min(M[0, 0], M[1, 1], M[0, 0] * M[1, 1] - M[0, 1] ** 2) >= 0


def logit_loss(w, p):
    """Return log(1 + e^w) - p w to 50 digits."""
    with mpmath.workdps(DIGITS):
        return mpmath.log1p(mpmath.exp(w)) - mpmath.mpf(p) * w


def logit_slope(w, p):
    """Return its derivative to 50 digits."""
    with mpmath.workdps(DIGITS):
        return 1 / (1 + mpmath.exp(-mpmath.mpf(w))) - mpmath.mpf(p)


def logit_curvature(w):
    """Return its second derivative to 25 digits, as a difference quotient."""
    with mpmath.workdps(DIGITS):
        h = mpmath.mpf(10) ** -13
        return (logit_slope(w + h, 0) - logit_slope(w - h, 0)) / (2 * h)


def fractions(x):
    """Return an array of fractions from integers."""
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x))


def solve(A, b):
    """Return x with A x = b by Gauss and Jordan; exact, so any nonzero pivot will do."""
    rows = np.concatenate([A, b[:, None]], axis=1)
    for i in range(len(rows)):
        pivot = next(j for j in range(i, len(rows)) if rows[j, i] != 0)
        rows[[i, pivot]] = rows[[pivot, i]]
        rows[i] = rows[i] / rows[i, i]
        for j in range(len(rows)):
            if j != i:
                rows[j] = rows[j] - rows[j, i] * rows[i]
    return rows[:, -1]
