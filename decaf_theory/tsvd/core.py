"""The small matrices of the panel path: from Gram matrices to the coefficients of both outputs.

M = sum_j pi_j b_j a_j over the n rank directions of a row. With Gram matrices B'B = L_B L_B' and
AA' = L_A L_A' and the SVD of the n x n core C = L_B' diag(pi) L_A = U S V', the balanced factors
are B X_B and X_A'A, X_B = diag(pi) L_A V S^-1/2 and X_A = diag(pi) L_B U S^-1/2: no inverse, and no
orthonormal basis of the long side. Four steps: `balance` the terms, `factorize` their Gram
matrices, `solve` the core, `judge` which rows keep the promise; the others are left to `redo`.

docs/kernel.md derives the errors and switches below; u = eps/2 of float64 is UNIT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, namespace, transpose
from decaf_theory.tsvd.jacobi import tolerance
from decaf_theory.tsvd.precision import UNIT, Precision

DEFLATION = 100 * UNIT  # LAPACK's SVD sets to zero what is smaller, relative to the first value
LARGEST_SIDE = 64  # of a core for the Jacobi kernel
LARGEST = 2.0**400  # of |w_j|: C'C and its digits fit between 2^-1022 and 2^1024
# why an element is left to the qr path; 0: it is not
REASONS = ("", "range", "cancellation", "conditioning", "grading")
RANGE, CANCELLATION, CONDITIONING, GRADING = range(1, 5)


class Core(NamedTuple):
    """The results of the small matrices for every row."""

    X: Array  # coefficients [2, ..., rows, n, r]: B' = panels of B times X[0], A' = X[1]' times A
    singular_values: Array  # all n, decreasing, [..., rows, n]
    refused: Array | None  # index into REASONS, [..., rows]; None: all are zero
    graded: Array | None  # to be multiplied in float64, [..., rows]; None: no row is


class Terms(NamedTuple):
    """The n terms of every row; g is one if all rows share a stack, else the number of rows."""

    G: Array  # Gram matrices of both sides [2, ..., g, n, n], an axis for what a row does not use
    size: Array  # lengths of the directions, one for what a row does not use, [2, ..., g, n]
    weights: Array  # zero where a direction adds nothing, [..., rows, n]
    total: Array  # |w|^2 of the terms' lengths w_j = pi_j |b_j||a_j|, [..., rows]
    outside: Array | None  # rows out of range, [..., rows]; None: none is


class Solution(NamedTuple):
    """The SVD of the core of every row."""

    V: Array  # right vectors [..., rows, n, n]
    US: Array  # left vectors times singular values [..., rows, n, n]
    S: Array  # singular values, zero below their error, [..., rows, n]
    floor: Array  # the same, raised to their error, [..., rows, n]
    first: Array  # the largest before that, [..., rows]
    error: Array  # of the core, as its singular values are, [..., rows]
    turned: Array  # of its vectors, the larger one of the core and of its SVD, [..., rows]

    def columns(self, rank: int) -> Iterator[Array]:
        """Return the first columns of V and of U S, and their values."""
        return (x[..., :rank] for x in (self.V, self.US, self.floor))


def solve_core(
    G: Array, unfit: Array | None, weights: Array, rank: int, longest: int, precision: Precision
) -> Core:
    """Return coefficients and singular values for rows of weights [..., rows, n].

    G [2, ..., g, n, n]: Gram matrices of both panels, g = 1 or rows; their diagonals are changed.
    unfit [..., g, n]: directions whose squares are out of range, zero in G; None: none is.
    longest: max(d, k), the terms of an entry of G.
    """
    eta = (int(weights.shape[-1]) * longest) ** 0.5 * UNIT
    terms = balance(G, unfit, weights, precision.reach)
    L = factorize(terms.G, terms.size, eta)
    solution = solve(L, terms, rank, precision)
    enough = precision.promised * solution.first / (2 * eta)
    if _clear(terms, solution, rank, enough, precision):
        X = _expressed(L, terms.weights, *solution.columns(rank))
        return Core(X, solution.S, None, None)
    X, unbalanced = _coefficients(L, terms, solution, rank, enough)
    refused, graded = judge(X, unbalanced, terms, solution, precision)
    return Core(X, solution.S, refused, graded)


def balance(G: Array, unfit: Array | None, weights: Array, reach: float) -> Terms:
    """Return the terms of every row, their lengths, and the rows whose numbers are out of range."""
    size = diagonal(G) ** 0.5
    w = weights * (size[0] * size[1])
    if unfit is None and _plain(size, abs(w), reach):
        return Terms(G, size, weights, (w**2).sum(-1), None)
    xp = namespace(G)
    weights, w, outside = _weighed(size, unfit, weights, w, reach)
    used = weights != 0
    if not bool(xp.all(used)):  # so that nothing depends on what a row does not use
        axis = xp.eye(int(G.shape[-1]), dtype=G.dtype, device=G.device)
        G = xp.where(used[..., :, None] & used[..., None, :], G, axis)
        size = xp.where(used, size, 1.0)
    total = xp.sum(w**2, axis=-1)
    return Terms(G, size, weights, total, outside)


def diagonal(G: Array) -> Array:
    """Return the diagonals [..., n] of contiguous matrices [..., n, n], as a view."""
    n = G.shape[-1]
    return G.reshape((*G.shape[:-2], n * n))[..., :: n + 1]


def _plain(size: Array, w: Array, reach: float) -> bool:
    """Return whether all |w| and lengths are in range, by their extremes: mostly they are."""
    low, high = float(w.min()), float(w.max())
    if not (low > 1 / LARGEST and high < LARGEST):
        return False
    return bool(size.min() >= high**0.5 / reach and size.max() <= low**0.5 * reach)


def _weighed(
    size: Array, unfit: Array | None, weights: Array, w: Array, reach: float
) -> tuple[Array, Array, Array]:
    """Return weights and w [..., rows, n], zero where a direction adds nothing, and bad rows.

    size [2, ..., g, n]: lengths of the directions. Out of range are rows whose w, or a coefficient
    in their type, would lose digits: all their weights become zero.
    """
    xp = namespace(size)
    with np.errstate(over="ignore", invalid="ignore"):
        top = xp.max(xp.abs(w), axis=-1)
        scale = top[..., None] ** 0.5
        near = xp.all((size >= scale / reach) & (size <= scale * reach), axis=0)
    used = (weights != 0) & xp.all(size > 0, axis=0)
    odd = used & (w != 0) & ~near
    if unfit is not None:
        odd = odd | (unfit & (weights != 0))
    outside = xp.any(odd, axis=-1)
    outside = outside | (xp.any(used, axis=-1) & ~((top > 1 / LARGEST) & (top < LARGEST)))
    used = used & ~outside[..., None]
    return xp.where(used, weights, 0.0), xp.where(used, w, 0.0), outside


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
    xp = namespace(L)
    rounding = int(L.shape[-1]) ** 0.5 * UNIT
    lost = 2 * rounding / precision.promised
    limits = (lost if precision.double else 0.0, lost ** (2 / 3))
    V, S, US, slip = _singular(transpose(L[0]) @ (terms.weights[..., None] * L[1]), rank, limits)
    first = S[..., 0]
    error = rounding * terms.total**0.5
    noise = error if precision.double else xp.maximum(error, rounding**0.5 * first)
    floor = S
    if not (S[..., -1] > noise).all():
        floor = xp.maximum(S, noise[..., None])
        floor = xp.where(floor > 0, floor, 1.0)
        S = xp.where(S > noise[..., None], S, 0.0)
    return Solution(V, US, S, floor, first, error, xp.maximum(error, slip * first))


def _clear(
    terms: Terms, solution: Solution, rank: int, enough: Array, precision: Precision
) -> bool:
    """Return whether bounds show at one look that `judge` would find nothing in any row.

    Singular values are not below the least, so that |w|^2 n/s_n bounds |X'X|_F, and |w|^2/s_r the
    square of a coefficient. Of a row of zeros nothing is shown.
    """
    S, n = solution.S, int(solution.S.shape[-1])
    product = solution.first * S[..., min(rank, n) - 1]
    fine = terms.total * n < enough * S[..., -1]
    fine = fine & (terms.total * (4 * precision.unit / precision.promised) ** 2 < product)
    fine = fine & (solution.turned**2 < precision.promised**2 * product)
    return n * precision.unit / 4 <= precision.promised and bool(fine.all())


def _singular(
    C: Array, rank: int, limits: tuple[float, float]
) -> tuple[Array, Array, Array, Array | float]:
    """Return V, S, U S; by an SVD if a singular value is too small relative to the first.

    limits: for the smallest of all, and of the first `rank`. Last, the error of an SVD over the
    first singular value, [...] or zero if there was none.
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
    first, kept = S[..., 0], S[..., min(rank, S.shape[-1]) - 1]
    small = kept < limits[1] * first
    if limits[0]:
        small = small | (S[..., -1] < limits[0] * first)
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
    crowded = terms.total * (1 / solution.floor).sum(-1) > enough  # bounds |X'X|_F
    unbalanced = crowded
    if crowded.any():
        X = _expressed(L, terms.weights, solution.V, solution.US, solution.floor)
        unbalanced = crowded & (_largest_product(X * terms.size[..., None], enough) > enough)
    else:  # dropped columns need not be formed
        X = _expressed(L, terms.weights, *solution.columns(rank))
    X, alive = X[..., :rank], solution.S[..., None, :rank] > 0
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


def _largest_product(X: Array, enough: Array) -> Array:
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
    X: Array, unbalanced: Array, terms: Terms, solution: Solution, precision: Precision
) -> tuple[Array, Array]:
    """Return why rows are refused, an index into REASONS, and which are multiplied in float64."""
    xp = namespace(X)
    double, unit, promised, _ = precision
    n, rank = X.shape[-2:]
    S, first = solution.S, solution.first
    S = S[..., :rank]
    least = xp.min(xp.where(S > 0, S, first[..., None]), axis=-1)
    refused = xp.zeros(S.shape[:-1], dtype=xp.int8, device=S.device)
    for reason, fails in (
        (RANGE, first < 0 if terms.outside is None else terms.outside),
        (CANCELLATION, solution.error > promised * first),
        (CONDITIONING, unbalanced),
        (GRADING, solution.turned > promised * (first * least) ** 0.5),
    ):
        if fails.any():
            refused = xp.where((refused == 0) & fails, reason, refused)
    if double:
        return refused, xp.zeros_like(refused, dtype=xp.bool)
    longer = xp.max(((X * terms.size[..., None]) ** 2).sum(-2), axis=(0, -1))
    graded = (4 * unit) ** 2 * longer > promised**2 * first
    graded = graded | (n * unit / 4 > promised)
    return refused, graded & (refused == 0)


def own_solver(C: Array) -> Callable[[Array], tuple[Array, Array, Array]] | None:
    """Return the Jacobi kernel where the libraries' batched solvers are slow: on CUDA; else None.

    It takes sides up to 64 and needs Triton, which CUDA builds of torch bring along.
    """
    if not getattr(C, "is_cuda", False) or max(C.shape[-2:]) > LARGEST_SIDE:
        return None
    try:
        from decaf_theory.tsvd.jacobi_triton import svd
    except ImportError:
        return None
    return svd
