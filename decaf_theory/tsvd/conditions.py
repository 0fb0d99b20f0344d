"""What must hold for a result to be taken: conditions that docs/kernel.md derives, and numbers.

They are on singular values of the core, on lengths of the terms, and on coefficients.
"""

from __future__ import annotations

from typing import NamedTuple

from decaf_theory.arrays import Array, namespace, transpose
from decaf_theory.tsvd.precision import UNIT, Precision
from decaf_theory.tsvd.terms import Terms

# why an element is left to the qr path; 0: it is not
REASONS = ("", "range", "cancellation", "conditioning", "grading")
RANGE, CANCELLATION, CONDITIONING, GRADING = range(1, 5)


class Measured(NamedTuple):
    """Singular values of the core, and how far they are off."""

    S: Array  # zero below their error, [..., rows, n]
    floor: Array  # raised to their error, [..., rows, n]
    first: Array  # the largest before that, [..., rows]
    error: Array  # of the core, [..., rows]

    def enough(self, eta: float, precision: Precision) -> Array:
        """Return how large |X'X|_F may be: (9), [..., rows]."""
        return precision.promised * self.first / (2 * eta)


def limits(n: int, precision: Precision) -> tuple[float, float]:
    """Return how small values may be over the first for eigenvectors to serve: (13).

    That is the last of all, and the last kept one; zero: no matter how small.
    """
    lost = 2 * n**0.5 * UNIT / precision.promised
    return lost if precision.double else 0.0, lost ** (2 / 3)


def too_small(S: Array, rank: int, least: tuple[float, float]) -> Array:
    """Return which rows of singular values [..., n] are below one of the `limits`."""
    first, kept = S[..., 0], S[..., min(rank, S.shape[-1]) - 1]
    small = kept < least[1] * first
    return small | (S[..., -1] < least[0] * first) if least[0] else small


def measured(S: Array, total: Array, precision: Precision) -> Measured:
    """Return singular values [..., n] with their errors: (7), and (11) in narrower types.

    total: |w|^2 of the terms' lengths, [..., rows].
    """
    xp, rounding, first = namespace(S), int(S.shape[-1]) ** 0.5 * UNIT, S[..., 0]
    error = rounding * total**0.5
    noise = error if precision.double else xp.maximum(error, rounding**0.5 * first)
    if (S[..., -1] > noise).all():
        return Measured(S, S, first, error)
    floor = xp.maximum(S, noise[..., None])
    floor = xp.where(floor > 0, floor, 1.0)
    return Measured(xp.where(S > noise[..., None], S, 0.0), floor, first, error)


class Look(NamedTuple):
    """What shows at one look that `judge` would find nothing, for every row, [..., rows]."""

    first: Array  # singular values: the largest
    kept: Array  # the last kept one
    least: Array  # the least that is not zero
    total: Array  # |w|^2 of the terms' lengths
    lengths: Array  # the last kept value times squares of columns of X, or their bound |w|^2
    turned: Array  # error of the core's vectors

    def clear(self, n: int, enough: Array, precision: Precision) -> Array:
        """Return the rows that pass. n: of directions; enough: for |X'X|_F in (9), [..., rows].

        No singular value is below the least, so that |w|^2 n/s_n bounds |X'X|_F. Of a row of zeros
        nothing is shown.
        """
        product = self.first * self.kept
        fine = self.total * n < enough * self.least
        fine = fine & (self.lengths * (4 * precision.unit / precision.promised) ** 2 < product)
        fine = fine & (self.turned**2 < precision.promised**2 * product)
        return fine & (n * precision.unit / 4 <= precision.promised)


def largest_product(X: Array, enough: Array) -> Array:
    """Return |X'X|_F, the larger of both sides; or its bound |X|_F^2 if within `enough`."""
    xp = namespace(X)
    bound = xp.max(xp.sum(X**2, axis=(-2, -1)), axis=0)
    doubtful = bound > enough
    if bool(xp.any(doubtful)):
        columns = X[:, doubtful]
        squares = xp.sum((transpose(columns) @ columns) ** 2, axis=(-2, -1))
        bound[doubtful] = xp.max(squares, axis=0) ** 0.5
    return bound


def judge(
    X: Array,
    unbalanced: Array,
    terms: Terms,
    found: Measured,
    turned: Array,
    precision: Precision,
) -> tuple[Array, Array]:
    """Return why rows are refused, an index into REASONS, and which are multiplied in float64.

    X [2, ..., rows, n, r]; unbalanced: rows that fail (9); turned: error of the core's vectors.
    """
    xp = namespace(X)
    double, unit, promised, _ = precision
    n, rank = X.shape[-2:]
    S, first = found.S[..., :rank], found.first
    least = xp.min(xp.where(S > 0, S, first[..., None]), axis=-1)
    refused = xp.zeros(S.shape[:-1], dtype=xp.int8, device=S.device)
    for reason, fails in (
        (RANGE, first < 0 if terms.outside is None else terms.outside),
        (CANCELLATION, found.error > promised * first),
        (CONDITIONING, unbalanced),
        (GRADING, turned > promised * (first * least) ** 0.5),
    ):
        if fails.any():
            refused = xp.where((refused == 0) & fails, reason, refused)
    if double:
        return refused, xp.zeros_like(refused, dtype=xp.bool)
    longer = xp.max(((X * terms.size[..., None]) ** 2).sum(-2), axis=(0, -1))
    graded = (4 * unit) ** 2 * longer > promised**2 * first
    graded = graded | (n * unit / 4 > promised)
    return refused, graded & (refused == 0)
