"""The small matrices of the panel path: from Gram matrices to the coefficients of both outputs.

M = sum_j pi_j b_j a_j over the n rank directions of a row. With Gram matrices B'B = L_B L_B' and
AA' = L_A L_A' and the SVD of the n x n core C = L_B' diag(pi) L_A = U S V', the balanced factors
are B X_B and X_A'A, X_B = diag(pi) L_A V S^-1/2 and X_A = diag(pi) L_B U S^-1/2: no inverse, and no
orthonormal basis of the long side. Four steps: `balance` the terms, `factorize` their Gram
matrices, `solve` the core, `judge` which rows keep the promise; the others are left to `redo`. On
request compiled code takes the middle two steps in one, for the rows that one look shows clear.

docs/kernel.md derives the errors and switches; u = eps/2 of float64 is UNIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, namespace, transpose
from decaf_theory.tsvd.conditions import (
    Look,
    Measured,
    judge,
    largest_product,
    limits,
    measured,
    too_small,
)
from decaf_theory.tsvd.jacobi import tolerance
from decaf_theory.tsvd.precision import UNIT, Precision
from decaf_theory.tsvd.solvers import compiled_kernels, own_solver
from decaf_theory.tsvd.terms import Terms, balance, diagonal

DEFLATION = 100 * UNIT  # LAPACK's SVD sets to zero what is smaller, relative to the first value


class Core(NamedTuple):
    """The results of the small matrices for every row."""

    X: Array  # coefficients [2, ..., rows, n, r]: B' = panels of B times X[0], A' = X[1]' times A
    singular_values: Array  # all n, decreasing, [..., rows, n]
    refused: Array | None  # index into REASONS, [..., rows]; None: all are zero
    graded: Array | None  # to be multiplied in float64, [..., rows]; None: no row is


class Solution(NamedTuple):
    """The SVD of the core of every row."""

    V: Array  # right vectors [..., rows, n, n]
    US: Array  # left vectors times singular values [..., rows, n, n]
    found: Measured  # singular values
    turned: Array  # error of the vectors, the larger one of the core and of its SVD, [..., rows]

    def columns(self, rank: int) -> Iterator[Array]:
        """Return the first columns of V and of U S, and their values."""
        return (x[..., :rank] for x in (self.V, self.US, self.found.floor))


def solve_core(
    G: Array, unfit: Array | None, weights: Array, rank: int, longest: int, precision: Precision
) -> Core:
    """Return coefficients and singular values for rows of weights [..., rows, n].

    G [2, ..., g, n, n]: Gram matrices of both panels, g = 1 or rows; their diagonals are changed.
    unfit [..., g, n]: directions whose squares are out of range, zero in G; None: none is.
    longest: max(d, k), the terms of an entry of G.
    """
    n = int(weights.shape[-1])
    eta = (n * longest) ** 0.5 * UNIT
    terms = balance(G, unfit, weights, precision.reach)
    kernels = None if precision.double else compiled_kernels(G, n)
    if kernels is None or not terms.within:
        return _by_steps(terms, rank, eta, precision)
    return _at_once(kernels, terms, rank, eta, precision)


def _at_once(
    kernels: ModuleType, terms: Terms, rank: int, eta: float, precision: Precision
) -> Core:
    """Return the core of all rows from compiled code, and by steps where something is odd."""
    X, S, lengths, fine = kernels.coefficients(terms, rank, eta)
    n = S.shape[-1]
    fine = fine & ~too_small(S, rank, limits(n, precision))
    found = measured(S, terms.total, precision)
    S, _, first, error = found
    kept = S[..., min(rank, n) - 1]
    look = Look(first, kept, _least(S, terms), terms.total, lengths * kept, error)
    fine = fine & look.clear(n, found.enough(eta, precision), precision)
    if fine.all():
        return Core(X, S, None, None)
    left = np.nonzero(~fine)
    others = _by_steps(terms.part(left), rank, eta, precision)
    X[(slice(None), *left)], S[left] = others.X, others.singular_values
    return Core(X, S, *(_placed(mark, left, fine.shape) for mark in others[2:]))


def _least(S: Array, terms: Terms) -> Array:
    """Return the least singular value of each row that its used directions leave, [..., rows].

    Each of the others gives one that is zero; if any other number is, the answer is zero, too.
    """
    if terms.outside is None:
        return S[..., -1]
    used = (terms.weights != 0).sum(axis=-1)
    least = np.take_along_axis(S, np.maximum(used, 1)[..., None] - 1, axis=-1)[..., 0]
    return np.where((S > 0).sum(axis=-1) == used, least, 0.0)


def _placed(mark: Array | None, left: tuple[Array, ...], shape: tuple[int, ...]) -> Array | None:
    """Return marks of some rows as those of all, zero elsewhere."""
    if mark is None:
        return None
    whole = np.zeros(shape, mark.dtype)
    whole[left] = mark
    return whole


def _by_steps(terms: Terms, rank: int, eta: float, precision: Precision) -> Core:
    """Return the core of all rows, step by step, in NumPy or torch."""
    L = factorize(terms.G, terms.size, eta)
    solution = solve(L, terms, rank, precision)
    S, _, first, _ = solution.found
    n, enough = int(S.shape[-1]), solution.found.enough(eta, precision)
    kept = S[..., min(rank, n) - 1]
    look = Look(first, kept, S[..., -1], terms.total, terms.total, solution.turned)
    if look.clear(n, enough, precision).all():
        return Core(_expressed(L, terms.weights, *solution.columns(rank)), S, None, None)
    X, unbalanced = _coefficients(L, terms, solution, rank, enough)
    marks = judge(X, unbalanced, terms, solution.found, solution.turned, precision)
    return Core(X, S, *marks)


def factorize(G: Array, size: Array, shift: float) -> Array:
    """Return L with LL' = G + shift diag(G), from eigenvectors if rounding left that indefinite.

    size: the roots of the diagonals of G, which are changed.
    """
    xp, squares = namespace(G), diagonal(G)
    squares *= 1 + shift
    try:
        return xp.linalg.cholesky(G)
    except xp.linalg.LinAlgError:
        values, V = xp.linalg.eigh(G / size[..., :, None] / size[..., None, :])
        return size[..., None] * V * xp.sqrt(xp.clip(values, min=shift))[..., None, :]


def solve(L: Array, terms: Terms, rank: int, precision: Precision) -> Solution:
    """Return the SVD of the core L_B' diag(pi) L_A of every row."""
    C = transpose(L[0]) @ (terms.weights[..., None] * L[1])
    V, S, US, slip = _singular(C, rank, limits(int(L.shape[-1]), precision))
    found = measured(S, terms.total, precision)
    turned = namespace(L).maximum(found.error, slip * found.first)
    return Solution(V, US, found, turned)


def _singular(
    C: Array, rank: int, least: tuple[float, float]
) -> tuple[Array, Array, Array, Array | float]:
    """Return V, S, U S; by an SVD if a singular value is too small relative to the first.

    least: the `limits`. Last, the error of an SVD over the first singular value, [...] or zero if
    there was none.
    """
    xp = namespace(C)
    own = own_solver(C)
    if own is not None:
        U, S, Vh = own(C)
        slip = xp.full_like(S[..., 0], tolerance(C, int(C.shape[-2])))
        return transpose(Vh), S, U * S[..., None, :], slip
    squares, V = xp.linalg.eigh(transpose(C) @ C)
    US, V = _reversed(C @ V), _reversed(V)
    S = _reversed(squares).clip(0.0) ** 0.5
    small = too_small(S, rank, least)
    if not small.any():
        return V, S, US, 0.0
    U, values, Vh = xp.linalg.svd(C[small])
    V[small], S[small], US[small] = transpose(Vh), values, U * values[:, None, :]
    return V, S, US, xp.astype(small, S.dtype) * DEFLATION


def _reversed(x: Array) -> Array:
    """Return x with its last axis in reverse."""
    return x[..., ::-1] if isinstance(x, np.ndarray) else namespace(x).flip(x, axis=-1)


def _coefficients(
    L: Array, terms: Terms, solution: Solution, rank: int, enough: Array
) -> tuple[Array, Array]:
    """Return X_B and X_A [2, ..., rows, n, r], and where |X'X|_F of either exceeds `enough`."""
    xp = namespace(L)
    crowded = terms.total * (1 / solution.found.floor).sum(-1) > enough  # bounds |X'X|_F
    unbalanced = crowded
    if crowded.any():
        X = _expressed(L, terms.weights, solution.V, solution.US, solution.found.floor)
        unbalanced = crowded & (largest_product(X * terms.size[..., None], enough) > enough)
    else:  # dropped columns need not be formed
        X = _expressed(L, terms.weights, *solution.columns(rank))
    X, alive = X[..., :rank], solution.found.S[..., None, :rank] > 0
    return X if alive.all() else xp.where(alive, X, 0.0), unbalanced


def _expressed(L: Array, weights: Array, V: Array, US: Array, S: Array) -> Array:
    """Return X_B and X_A [2, ..., rows, n, q] from q columns of V and U S, and their values S."""
    S = S[..., None, :]
    root = S**0.5
    X = namespace(L).empty((2, *V.shape), dtype=V.dtype, device=V.device)
    X[0] = L[1] @ (V / root)
    X[1] = L[0] @ (US / S / root)
    X *= weights[..., None]
    return X
