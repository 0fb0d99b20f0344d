"""Eigenvectors of small symmetric matrices, LANES of them side by side, compiled by Numba.

LAPACK takes matrices one at a time, and at side 12 spends its time around the arithmetic. Here
entry (i, j) of sixteen matrices, or eight, is one vector (`simd`), and all are worked at once: what
only some need, others do not notice.

By Householder reduction to tridiagonal form and implicit QL iteration (Golub and Van Loan, Matrix
Computations, 4th ed., 8.3; EISPACK's tred2 and tql2), with two changes. Every lane has a block of
its own in each sweep, so that none waits until the others have converged. And the rotations are
kept, and applied backwards to the wanted columns of the identity alone: r of n.

Matrices are arrays of vectors, but for those of `eigenvectors`. Squares are formed without scaling:
numbers have to be within 2^-250 and 2^250.
"""
# mypy: disable-error-code="import-not-found,import-untyped,unused-ignore"
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from decaf_theory.tsvd.precision import UNIT
from decaf_theory.tsvd.simd import LANES, compiled, full, largest, least, select, sqrt, vectors

MOST = 6  # rotations are at most 6 n^2; mostly they are 1.2 n^2


class Room(NamedTuple):
    """Memory for what is computed on the way."""

    e: Any  # beside the diagonal, [n, LANES]
    beta: Any  # of the reflections, [n, LANES]
    s: Any  # a row, [n, LANES]
    rotations: Any  # sine and cosine, [6 n^2, 2, LANES]
    planes: Any  # where each of them turns, [6 n^2]
    order: Any  # where the eigenvalues were, [n, LANES]


@compiled
def room(n):
    """Return memory for matrices of side n."""
    row, most = (n, LANES), MOST * n * n
    rotations = np.empty((most, 2, LANES))
    planes, order = np.empty(most, np.int64), np.empty(row, np.int64)
    return Room(np.empty(row), np.empty(row), np.empty(row), rotations, planes, order)


@compiled
def eigenvectors(A, d, Y, room):
    """Put all eigenvalues, decreasing, into d [n, LANES], eigenvectors of r into Y [n, r, LANES].

    Return where that succeeded. A: symmetric, [n, n, LANES], overwritten.
    """
    numbers, beta, rotations = vectors(d), vectors(room.beta), vectors(room.rotations)
    tridiagonal(vectors(A), numbers, vectors(room.e), beta, vectors(room.s))
    turns, settled = values(numbers, vectors(room.e), rotations, room.planes)
    ordered(d, room.order)
    Y[:] = 0.0
    for q in range(Y.shape[1]):
        for w in range(LANES):
            Y[room.order[q, w], q, w] = 1.0
    turn_back(vectors(Y), vectors(A), beta, rotations, room.planes[:turns], vectors(room.s))
    return settled


@compiled
def cholesky(A, shift):
    """Put L with LL' = A + shift diag(A) into the lower triangle, and return where it exists."""
    n = len(A)
    exists = full(1.0) > 0.0
    for k in range(n):
        A[k, k] *= 1 + shift
    for k in range(n):
        exists &= A[k, k] > 0.0
        A[k, k] = sqrt(select(A[k, k] > 0.0, A[k, k], 1.0))
        for i in range(k + 1, n):
            A[i, k] /= A[k, k]
        for i in range(k + 1, n):
            x = A[i, k]
            for j in range(k + 1, i + 1):
                A[i, j] -= x * A[j, k]
    return exists


@compiled
def tridiagonal(A, d, e, beta, p):
    """Reduce symmetric A by reflections to the diagonals d [n] and e [n], of which the last is 0.

    Row k of A is left with the vector v of reflection I - beta_k v v', of length k; p: room [n].
    """
    n = len(A)
    e[n - 1] = full(0.0)
    for k in range(n - 1, 1, -1):
        s = full(0.0)
        for i in range(k):
            s += A[k, i] * A[k, i]
            p[i] = full(0.0)
        x, root = A[k, k - 1], sqrt(s)
        root = select(x >= 0.0, -root, root)
        half = s - x * root  # of |v|^2
        beta[k] = select(half > 0.0, 1.0 / half, 0.0)
        d[k], e[k - 1], A[k, k - 1] = A[k, k], root, x - root
        for j in range(k):
            x = A[k, j]
            for i in range(k):
                p[i] += A[j, i] * x
        s = full(0.0)
        for i in range(k):
            p[i] *= beta[k]
            s += p[i] * A[k, i]
        s *= 0.5 * beta[k]
        for i in range(k):
            p[i] -= s * A[k, i]
        for j in range(k):
            x, y = A[k, j], p[j]
            for i in range(j + 1):
                A[j, i] -= x * p[i] + y * A[k, i]
                A[i, j] = A[j, i]
    d[0] = A[0, 0]
    if n > 1:
        d[1], e[0] = A[1, 1], A[1, 0]


@compiled
def values(d, e, rotations, planes):
    """Replace d by the eigenvalues of the tridiagonal matrices of d and e, in no order.

    Return how many rotations were made, and where QL converged. Rotation t turns the plane
    (i, i + 1), i = planes[t], by sine and cosine rotations[t].
    """
    n, t = len(d), 0
    begin, end, shift = _blocks(d, e)
    while least(begin) < n and t + n <= len(planes):
        g = c = s = q = full(0.0)
        for i in range(int(largest(end)) - 1, int(least(begin)) - 1, -1):
            starts, within, stops = end == i + 1, (begin <= i) & (end > i), begin == i
            s, c, q = select(starts, 1.0, s), select(starts, 1.0, c), select(starts, 0.0, q)
            g = select(starts, d[i + 1] - shift, g)
            f, b = s * e[i], c * e[i]
            r = sqrt(f * f + g * g)
            inverse = 1.0 / select(r > 0.0, r, 1.0)
            s, c = f * inverse, select(r > 0.0, g * inverse, 1.0)
            low = d[i + 1] - q
            x = (d[i] - low) * s + 2.0 * c * b
            q, g = s * x, c * x - b
            d[i + 1] = select(within, low + q, d[i + 1])
            e[i + 1] = select(within, select(starts, 0.0, r), e[i + 1])
            d[i], e[i] = select(stops, d[i] - q, d[i]), select(stops, g, e[i])
            rotations[t, 0], rotations[t, 1] = select(within, s, 0.0), select(within, c, 1.0)
            planes[t] = i
            t += 1
        begin, end, shift = _blocks(d, e)
    return t, begin == n


@compiled
def _blocks(d, e):
    """Return where the first block without a zero in e begins and ends, and Wilkinson's shift.

    Where all of e is zero, it begins at n and ends at 0.
    """
    n = len(d)
    begin, end, zero = full(n), full(0), full(n - 1)
    x = y = full(0.0)
    z = full(1.0)
    for i in range(n - 2, -1, -1):
        small = abs(e[i]) <= UNIT * (abs(d[i]) + abs(d[i + 1]))
        zero = select(small, i, zero)
        begin, end = select(small, begin, i), select(small, end, zero)
        x, y, z = select(small, x, d[i]), select(small, y, d[i + 1]), select(small, z, e[i])
    half = (y - x) / (2.0 * z)
    root = sqrt(half * half + 1.0)
    return begin, end, x - z / (half + select(half >= 0.0, root, -root))


@compiled
def ordered(d, order):
    """Sort the numbers d [n, LANES], decreasing, and put where each was into order [n, LANES]."""
    for w in range(LANES):
        for i in range(len(d)):
            value, j = d[i, w], i
            while j > 0 and d[j - 1, w] < value:
                d[j, w], order[j, w] = d[j - 1, w], order[j - 1, w]
                j -= 1
            d[j, w], order[j, w] = value, i


@compiled
def turn_back(Y, A, beta, rotations, planes, s):
    """Turn columns Y [n, r] of the identity into eigenvectors, by all steps backwards; s: [r]."""
    n, r = Y.shape
    for t in range(len(planes) - 1, -1, -1):
        i, sine, cosine = planes[t], rotations[t, 0], rotations[t, 1]
        for q in range(r):
            low, high = Y[i, q], Y[i + 1, q]
            Y[i, q], Y[i + 1, q] = cosine * low + sine * high, cosine * high - sine * low
    for k in range(2, n):
        for q in range(r):
            s[q] = full(0.0)
        for i in range(k):
            for q in range(r):
                s[q] += A[k, i] * Y[i, q]
        for q in range(r):
            s[q] *= beta[k]
        for i in range(k):
            for q in range(r):
                Y[i, q] -= s[q] * A[k, i]
