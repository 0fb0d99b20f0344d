"""The small matrices of the panel path: from Gram matrices to the coefficients of both outputs.

Write M = sum_j pi_j b_j a_j over the n rank directions of all agents of a row, and scale each to
unit length: M = B W A with W = diag(w_j), w_j = pi_j |b_j||a_j|. Take any L_B, L_A with
L_B L_B' near G_B = B'B and L_A L_A' near G_A = AA', and the SVD of the n x n core,

    C = L_B' W L_A = U S V',    X_B = W L_A V S^-1/2,    X_A = W L_B U S^-1/2.

Then B' = B X_B and A' = X_A' A are the balanced factors, without inverses or orthonormal bases.
Unit length serves the analysis alone: scaling a direction scales its row of L and of X, C stays.
B'A' = B W A = M whatever the L, as L_A C^-1 L_B' = W^-1, and X_B' L_B L_B' X_B = S = X_A' L_A L_A'
X_A. So all that errors of Gram matrices do is to disturb the balance, B'B - S = X_B' (G_B - L_B
L_B') X_B; the condition of G does not enter by itself.

Errors, with u = eps/2 of float64. Entries of a computed G are off by sqrt(d) u (d rounding errors
of either sign), the matrix by eta = sqrt(n d) u in norm. As much is added to its diagonal: so
Cholesky's factorization exists, and G <= LL', so that B = Z L_B', A = L_A Y with |Z|, |Y| <= 1.
The promise is an error of `promised` sigma_1(M) in singular values, product and balance, 1e-13 for
float64 data and 1e-6 for narrower. An element that fails one of these is refused (left to qr):

range         Squares, sizes and coefficients stay inside the range of their type.
cancellation  C is a sum of n terms, off by e = sqrt(n) u |w|, as singular values are:
    e <= promised s_1.
conditioning  2 eta |X'X|_F <= promised s_1 for X_B and X_A, dropped columns included. As rows of L
    have length one, column i is at most |w|/sqrt(s_i) long: |X'X|_F <= |w|^2 sum_i 1/s_i is
    mostly enough, and the dropped columns need not be formed.
grading       The inner product of columns 1 and i of B' is off by e sqrt(s_1/s_i):
    e <= promised sqrt(s_1 s_i) for all s_i that are kept. Where C had an SVD, e is its error, if
    that is larger: LAPACK's iteration takes 100 u s_1 for zero, Jacobi's the cosine `tolerance`.

Column i of B' is a combination of unit columns with coefficients x_i: in a type of unit roundoff
u_t it is off by some 2 u_t |x_i|, its inner product with the first by sqrt(s_1) times that. Equal
terms, as in consensus, round one way and lose n u_t/4 in all. Where twice the first exceeds
promised sqrt(s_1) for narrower data, as for steep spectra, or the second exceeds promised, as for
more than 67 directions in float32, the outputs are multiplied in float64. For float64 data this is
weaker than the last condition.

S^2 and V come from the eigenvectors of C'C, and U S = C V. As C'C and its eigenvalues are off by
2 sqrt(n) u s_1^2, a singular value s_i is off by sqrt(n) u s_1^2 / s_i, and the inner product of
rows 1 and i of A' by 2 sqrt(n) u s_1 (s_1/s_i)^(3/2). Where that is too much, for what is kept or
(float64 data) for what is dropped, C has an SVD; on CUDA every C has one, by Jacobi rotations.
Dropped values of narrower data keep an error of (sqrt(n) u)^(1/2) s_1. Singular values below the
error of the core, and their directions, become exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, namespace, transpose
from decaf_theory.tsvd.jacobi import tolerance

UNIT = float(np.finfo(np.float64).eps) / 2
SMALLEST = float(np.finfo(np.float64).smallest_normal)
DEFLATION = 100 * UNIT  # what LAPACK's SVD sets to zero beside the first singular value
LARGEST_SIDE = 64  # of a core for the Jacobi kernel
LARGEST = 2.0**400  # of |w_j|: C'C and its digits fit between 2^-1022 and 2^1024
# why an element is left to the qr path; 0: it is not
REASONS = ("", "range", "cancellation", "conditioning", "grading")
RANGE, CANCELLATION, CONDITIONING, GRADING = range(1, 5)


class Precision(NamedTuple):
    """What the type of the data allows and asks."""

    double: bool
    unit: float  # roundoff
    promised: float  # error over sigma_1
    reach: float  # coefficients between 1/reach and reach keep their digits

    @classmethod
    def of(cls, x: Array) -> Precision:
        """Return that of the dtype of x, float32 or float64."""
        info = namespace(x).finfo(x.dtype)
        double, eps = info.bits == 64, float(info.eps)
        return cls(double, eps / 2, 1e-13 if double else 1e-6, eps / float(info.smallest_normal))


def attainable(n: int, longest: int, precision: Precision) -> bool:
    """Return whether n orthonormal directions of one size would pass `conditioning`.

    There |X'X|_F = sqrt(n) s_1: 2 eta sqrt(n) <= promised, n sqrt(max(d, k)) <= 450 in float64.
    """
    return bool(2 * n * longest**0.5 * UNIT <= precision.promised)


class Core(NamedTuple):
    """What the small matrices say about every row."""

    X: Array  # coefficients [2, ..., rows, n, r]: B' = panels of B times X[0], A' = X[1]' times A
    singular_values: Array  # all n, decreasing, [..., rows, n]
    refused: Array  # index into REASONS, [..., rows]
    graded: Array  # to be multiplied in float64, [..., rows]


def solve_core(
    G: Array, unfit: Array, weights: Array, rank: int, longest: int, precision: Precision
) -> Core:
    """Return coefficients and singular values for rows of weights [..., rows, n].

    G [2, ..., g, n, n]: Gram matrices of both panels, g = 1 or rows; their diagonals are changed.
    unfit [..., g, n]: directions whose squares are out of range, zero in G. longest: max(d, k), the
    terms of an entry of G.
    """
    xp = namespace(G)
    double, unit, promised, reach = precision
    n = int(weights.shape[-1])
    eta, rounding = (n * longest) ** 0.5 * UNIT, n**0.5 * UNIT
    size = xp.sqrt(xp.linalg.diagonal(G))
    weights, w, outside = _weighed(size, unfit, weights, reach)
    total = xp.sum(w**2, axis=-1)  # |w|^2
    core_error = rounding * total**0.5
    used = weights != 0
    if not bool(xp.all(used)):  # so that nothing depends on what a row does not use
        axis = xp.eye(n, dtype=G.dtype, device=G.device)
        G = xp.where(used[..., :, None] & used[..., None, :], G, axis)
        size = xp.where(used, size, 1.0)

    L = _cholesky(G, size, eta)
    limits = (2 * rounding / promised if double else 0.0, (2 * rounding / promised) ** (2 / 3))
    V, S, US, slip = _singular(transpose(L[0]) @ (weights[..., None] * L[1]), rank, limits)
    first = S[..., 0]
    noise = core_error if double else xp.maximum(core_error, rounding**0.5 * first)
    floor = xp.maximum(S, noise[..., None])
    floor = xp.where(floor > 0, floor, 1.0)
    S = xp.where(S > noise[..., None], S, 0.0)

    enough = promised * first / (2 * eta)
    crowded = total * xp.sum(1 / floor, axis=-1) > enough  # a bound on |X'X|_F of both sides
    unbalanced = crowded
    if bool(xp.any(crowded)):
        X = _coefficients(L, weights, V, US, floor)
        unbalanced = crowded & (_largest_product(X * size[..., None], enough) > enough)
    else:
        X = _coefficients(L, weights, *(x[..., :rank] for x in (V, US, floor)))
    X = xp.where(S[..., None, :rank] > 0, X[..., :rank], 0.0)
    longer = xp.max(xp.sum((X * size[..., None]) ** 2, axis=-2), axis=(0, -1))
    graded = (4 * unit) ** 2 * longer > promised**2 * first
    graded = graded | (n * unit / 4 > promised)
    least = xp.min(xp.where(S > 0, S, first[..., None])[..., :rank], axis=-1)
    refused = xp.astype(outside, xp.int8) * RANGE
    for reason, fails in (
        (CANCELLATION, core_error > promised * first),
        (CONDITIONING, unbalanced),
        (GRADING, xp.maximum(core_error, slip * first) > promised * (first * least) ** 0.5),
    ):
        refused = xp.where((refused == 0) & fails, reason, refused)
    return Core(X, S, refused, graded & (refused == 0) & (not double))


def _weighed(size: Array, unfit: Array, weights: Array, reach: float) -> tuple[Array, Array, Array]:
    """Return weights and w [..., rows, n], zero where a direction adds nothing, and what is out.

    size [2, ..., g, n]: lengths of the directions. Out of range are rows whose w, or a coefficient
    in their type, would lose digits: all their weights become zero.
    """
    xp = namespace(size)
    with np.errstate(over="ignore", invalid="ignore"):
        w = weights * (size[0] * size[1])
        top = xp.max(xp.abs(w), axis=-1)
        scale = top[..., None] ** 0.5
        near = xp.all((size >= scale / reach) & (size <= scale * reach), axis=0)
    used = (weights != 0) & xp.all(size > 0, axis=0)
    outside = xp.any((used & (w != 0) & ~near) | (unfit & (weights != 0)), axis=-1)
    outside = outside | (xp.any(used, axis=-1) & ~((top > 1 / LARGEST) & (top < LARGEST)))
    used = used & ~outside[..., None]
    return xp.where(used, weights, 0.0), xp.where(used, w, 0.0), outside


def _cholesky(G: Array, size: Array, shift: float) -> Array:
    """Return L with LL' = G + shift diag(G), from eigenvectors where rounding left that indefinite.

    size: the roots of the diagonals of G, which are changed.
    """
    xp = namespace(G)
    n = int(size.shape[-1])
    diagonal = xp.reshape(G, (*G.shape[:-2], n * n))[..., :: n + 1]  # a view
    diagonal *= 1 + shift
    try:
        return xp.linalg.cholesky(G)
    except xp.linalg.LinAlgError:
        values, V = xp.linalg.eigh(G / size[..., :, None] / size[..., None, :])
        return size[..., None] * V * xp.sqrt(xp.clip(values, min=shift))[..., None, :]


def _coefficients(L: Array, weights: Array, V: Array, US: Array, S: Array) -> Array:
    """Return X_B and X_A [2, ..., rows, n, q] from q columns of V and U S, and their values S."""
    xp = namespace(L)
    S = S[..., None, :]
    return weights[..., None] * (xp.flip(L, axis=0) @ (xp.stack([V, US / S]) / S**0.5))


def _largest_product(X: Array, enough: Array) -> Array:
    """Return |X'X|_F, the larger of both sides; or its bound |X|_F^2 where that is `enough`."""
    xp = namespace(X)
    bound = xp.max(xp.sum(X**2, axis=(-2, -1)), axis=0)
    doubtful = bound > enough
    if bool(xp.any(doubtful)):
        columns = X[:, doubtful]
        squares = xp.sum((transpose(columns) @ columns) ** 2, axis=(-2, -1))
        bound[doubtful] = xp.max(squares, axis=0) ** 0.5
    return bound


def _singular(
    C: Array, rank: int, limits: tuple[float, float]
) -> tuple[Array, Array, Array, Array]:
    """Return V, S, U S; by an SVD where a singular value is too small beside the first.

    limits: for the smallest of all, and of the first `rank`. Last, the error of an SVD over the
    first singular value [...], zero where there was none.
    """
    xp = namespace(C)
    solve = own_solver(C)
    if solve is not None:
        U, S, Vh = solve(C)
        slip = xp.full_like(S[..., 0], tolerance(C, int(C.shape[-2])))
        return transpose(Vh), S, U * S[..., None, :], slip
    squares, V = xp.linalg.eigh(transpose(C) @ C)
    US, V = xp.flip(C @ V, axis=-1), xp.flip(V, axis=-1)
    S = xp.flip(xp.clip(squares, min=0.0), axis=-1) ** 0.5
    first, kept = S[..., 0], S[..., min(rank, S.shape[-1]) - 1]
    small = (S[..., -1] < limits[0] * first) | (kept < limits[1] * first)
    if bool(xp.any(small)):
        U, values, Vh = xp.linalg.svd(C[small])
        V[small], S[small], US[small] = transpose(Vh), values, U * values[:, None, :]
    return V, S, US, xp.astype(small, S.dtype) * DEFLATION


def own_solver(C: Array) -> Callable[[Array], tuple[Array, Array, Array]] | None:
    """Return the Jacobi kernel where the libraries' batched ones are slow: on CUDA; else None.

    It takes sides up to 64, and Triton, which CUDA builds of torch bring along.
    """
    if not getattr(C, "is_cuda", False) or max(C.shape[-2:]) > LARGEST_SIDE:
        return None
    try:
        from decaf_theory.tsvd.jacobi_triton import svd
    except ImportError:
        return None
    return svd
