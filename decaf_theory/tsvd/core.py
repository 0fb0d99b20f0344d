"""The small matrices of the panel path: from Gram matrices to the coefficients of both outputs.

Write M = sum_j pi_j b_j a_j over the n rank directions of all agents of a row, and scale each to
unit length: M = B W A with W = diag(w_j), w_j = pi_j |b_j||a_j|. Take any L_B, L_A with
L_B L_B' near G_B = B'B and L_A L_A' near G_A = AA', and the SVD of the n x n core,

    C = L_B' W L_A = U S V',    X_B = W L_A V S^-1/2,    X_A = W L_B U S^-1/2.

Then B' = B X_B and A' = X_A' A are the balanced factors, without inverses or orthonormal bases.
B'A' = B W A = M whatever the L, as L_A C^-1 L_B' = W^-1, and X_B' L_B L_B' X_B = S = X_A' L_A L_A'
X_A. So all that errors of Gram matrices do is to disturb the balance, B'B - S = X_B' (G_B - L_B
L_B') X_B; neither the condition of G nor consensus of the agents enters by itself.

Errors, with u = eps/2 of float64. Entries of a computed G are off by sqrt(d) u (d rounding errors
of either sign), the matrix by eta = sqrt(n d) u in norm. As much is added to its diagonal: so
Cholesky's factorization exists, and G <= LL', so that B = Z L_B', A = L_A Y with |Z|, |Y| <= 1.
The promise is an error of `promised` sigma_1(M) in singular values, product and balance, 1e-13 for
float64 data and 1e-6 for narrower. An element that fails one of these is refused (left to qr):

range         Squares, sizes and coefficients stay inside the range of their type.
cancellation  C is a sum of n terms, off by e = sqrt(n) u |w|, as singular values are:
    e <= promised s_1.
conditioning  2 eta |X'X|_F <= promised s_1 for X_B and X_A, dropped columns included.
grading       The inner product of columns 1 and i of B' is off by e sqrt(s_1/s_i):
    e <= promised sqrt(s_1 s_i) for all s_i that are kept.

Column i of B' is a combination of unit columns with coefficients x_i: in a type of unit roundoff
u_t it is off by 2 u_t |x_i|, its inner product with the first by sqrt(s_1) times that. Where
2 u_t |x_i| > promised sqrt(s_1) for narrower data, as for steep spectra, the outputs are multiplied
in float64. For float64 data this is weaker than the last condition.

S^2 and V come from the eigenvectors of C'C, and U S = C V. As C'C is off by sqrt(n) u s_1^2, a
singular value s_i is off by sqrt(n) u s_1^2 / s_i, and the inner product of rows 1 and i of A' by
sqrt(n) u s_1 (s_1/s_i)^(3/2). Where that is too much, for what is kept or (float64 data) for what
is dropped, C has an SVD. Dropped values of narrower data keep an error of (sqrt(n) u)^(1/2) s_1.
Singular values below the error of the core, and their directions, become exactly zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, like, namespace, transpose

UNIT = float(np.finfo(np.float64).eps) / 2
SMALLEST = float(np.finfo(np.float64).smallest_normal)
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

    G [2, ..., g, n, n]: Gram matrices of both panels, g = 1 or rows. unfit [..., g, n]: directions
    whose squares are out of range, zero in G. longest: max(d, k), the terms of an entry of G.
    """
    xp = namespace(G)
    double, unit, promised, reach = precision
    n = int(G.shape[-1])
    eta, rounding = (n * longest) ** 0.5 * UNIT, n**0.5 * UNIT
    G, inverse_size, w, half, outside = _scaled(G, weights)
    to_data = inverse_size * half[..., None]  # from coefficients of unit directions
    near = (to_data >= 1 / reach) & (to_data <= reach)
    outside = outside | ~xp.all(near | (w == 0), axis=(0, -1))
    outside = outside | xp.any(unfit & (weights != 0), axis=-1)
    w = xp.where(outside[..., None], 0.0, w)

    L = _cholesky(G, eta)
    WL = w[..., None] * L
    limits = (rounding / promised if double else 0.0, (rounding / promised) ** (2 / 3))
    V, S, US = _singular(transpose(L[0]) @ WL[1], rank, limits)
    first, core_error = S[..., 0], rounding * xp.sum(w**2, axis=-1) ** 0.5
    noise = core_error if double else xp.maximum(core_error, rounding**0.5 * first)
    floor = xp.maximum(S, noise[..., None])
    floor = xp.where(floor > 0, floor, 1.0)[..., None, :]
    X = xp.flip(WL, axis=0) @ (xp.stack([V, US / floor]) / floor**0.5)
    S = xp.where(S > noise[..., None], S, 0.0)

    unbalance = 2 * eta * _largest_product(X, promised * first / (2 * eta))
    X = xp.where(S[..., None, :rank] > 0, X[..., :rank], 0.0)
    graded = (2 * unit) ** 2 * xp.max(xp.sum(X**2, axis=-2), axis=(0, -1)) > promised**2 * first
    least = xp.min(xp.where(S > 0, S, first[..., None])[..., :rank], axis=-1)
    refused = xp.astype(outside, xp.int8) * RANGE
    for reason, fails in (
        (CANCELLATION, core_error > promised * first),
        (CONDITIONING, unbalance > promised * first),
        (GRADING, core_error > promised * (first * least) ** 0.5),
    ):
        refused = xp.where((refused == 0) & fails, reason, refused)
    with np.errstate(over="ignore"):  # of singular values it is an error, named by the caller
        S = S * half[..., None] * half[..., None]
    return Core(X * to_data[..., None], S, refused, graded & (refused == 0) & (not double))


def _scaled(G: Array, weights: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return G of unit directions, their inverse sizes [2, ..., g, n], w / h^2 and h [..., rows].

    h is a power of two, the largest |w_j| / h^2 in [1/4, 1). Last, where w leaves the range: there
    w is 0. A direction that is zero in either panel, or without weight, is made an axis of its own.
    """
    xp = namespace(G)
    size = xp.sqrt(xp.linalg.diagonal(G))
    alive = xp.all(size > 0, axis=0)
    if bool(xp.any(weights == 0)):
        alive = alive & (weights != 0)
    inverse = xp.where(alive, 1 / xp.where(size > 0, size, 1.0), 0.0)
    G = G * (inverse[..., :, None] * inverse[..., None, :])
    if not bool(xp.all(alive)):
        one = xp.eye(G.shape[-1], dtype=G.dtype, device=G.device)
        G = xp.where(alive[..., None], G, one)
    with np.errstate(over="ignore", invalid="ignore"):
        w = xp.where(alive, weights * (size[0] * size[1]), 0.0)
        top = xp.max(xp.abs(w), axis=-1)
        some = xp.any(alive & (weights != 0), axis=-1)
        fits = (top >= SMALLEST) & (top < 1 / SMALLEST)
        e = xp.frexp(xp.where(fits, top, 1.0))[1]
        half = 2.0 ** like((e + 1) // 2, G)
        w = xp.where(fits[..., None], w / half[..., None] / half[..., None], 0.0)
    return G, inverse, w, half, some & ~fits


def _cholesky(G: Array, shift: float) -> Array:
    """Return L with LL' = G + shift I, from eigenvectors where rounding left that indefinite."""
    xp = namespace(G)
    try:
        return xp.linalg.cholesky(G + shift * xp.eye(G.shape[-1], dtype=G.dtype, device=G.device))
    except xp.linalg.LinAlgError:
        values, V = xp.linalg.eigh(G)
        return V * xp.sqrt(xp.clip(values, min=0.0) + shift)[..., None, :]


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


def _singular(C: Array, rank: int, limits: tuple[float, float]) -> tuple[Array, Array, Array]:
    """Return V, S, U S; by an SVD where a singular value is too small beside the first.

    limits: for the smallest of all, and of the first `rank`.
    """
    xp = namespace(C)
    squares, V = xp.linalg.eigh(transpose(C) @ C)
    S, V = xp.sqrt(xp.clip(xp.flip(squares, axis=-1), min=0.0)), xp.flip(V, axis=-1)
    US = C @ V
    first, kept = S[..., 0], S[..., min(rank, S.shape[-1]) - 1]
    small = (S[..., -1] < limits[0] * first) | (kept < limits[1] * first)
    if bool(xp.any(small)):
        U, values, Vh = xp.linalg.svd(C[small])
        V[small], S[small], US[small] = transpose(Vh), values, U * values[:, None, :]
    return V, S, US
