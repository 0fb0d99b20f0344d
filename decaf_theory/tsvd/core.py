"""The small matrices of the panel path: from Gram matrices to the coefficients of both outputs.

Write M = sum_j pi_j b_j a_j over the n rank directions of all agents of a row, and scale each to
unit length: M = B W A with W = diag(pi_j |b_j||a_j|), whose moduli add up to the size of the parts.
With G_B = B'B = L_B L_B' and G_A = AA' = L_A L_A', the singular values of M are those of the n x n
core C = L_B' W L_A = U S V', and the balanced factors are products with B and A themselves,

    B' = B (W L_A V S^-1/2),    A' = (W L_B U S^-1/2)' A,

without inverses or orthonormal bases. C comes from an SVD for float64 data; for narrower data V and
S^2 come from the eigenvectors of C'C and U S = C V.

Errors, with u = eps/2 of float64. Entries of a computed Gram matrix are off by sqrt(d) u (d
rounding errors of either sign), the matrix by eta = sqrt(n d) u in norm. Kept to are errors of
`promised` sigma_1(M) in singular values, product and balance: 1e-13 for float64 data, 1e-6 for
narrower. That needs, or else the element is refused and left to the qr path:

range         Squares, and coefficients, stay inside the range of their type.
conditioning  The computed G = L (I + F) L' with |F| <= eta / lambda_min(G), which moves singular
    values by half of F_B and F_A together, each in relation to itself. float64 data need
    eta (1/lambda_min(G_B) + 1/lambda_min(G_A)) / 2 <= promised.
cancellation  C is a sum of n terms, off by sqrt(n) u sum_j |w_j|. Narrower data have sigma^2 off by
    eta q^2, q^2 = max |W G W|_F over both G, whatever their conditioning, hence sigma by
    sqrt(eta) q at worst, where sigma is that small. `noise`, the larger of the two, must be
    <= promised sigma_1. Singular values below it become exactly zero, and their directions too.
grading       Column i of B' is a combination of unit columns with coefficients c_i: in a type of
    unit roundoff u_t it is off by 2 u_t |c_i|, its inner product with the largest column by
    sqrt(sigma_1) times that. Hence 2 u_t |c_i| <= promised sqrt(sigma_1). Narrower data are not
    refused but multiplied in float64, where this always holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, namespace, transpose
from decaf_theory.tsvd.mixing import exponent_of, scale_by

UNIT = float(np.finfo(np.float64).eps) / 2
# why an element is left to the qr path; 0: it is not
REASONS = ("", "range", "conditioning", "cancellation", "grading")
RANGE, CONDITIONING, CANCELLATION, GRADING = range(1, 5)


class Precision(NamedTuple):
    """What the type of the data allows and asks."""

    double: bool
    unit: float  # roundoff
    promised: float  # error over sigma_1
    reach: int  # coefficients within 2^reach keep their digits

    @classmethod
    def of(cls, x: Array) -> Precision:
        """Return that of the dtype of x, float32 or float64."""
        info = namespace(x).finfo(x.dtype)
        double, unit = info.bits == 64, float(info.eps) / 2
        reach = int(np.log2(float(info.eps) / float(info.smallest_normal)))
        return cls(double, unit, 1e-13 if double else 1e-6, reach)


class Grams(NamedTuple):
    """The Gram matrices of stacked panels, [..., g, n, n]."""

    B: Array
    A: Array
    unfit: Array  # [..., g, n]: directions, zeroed here, of non-finite or out-of-range square


class Core(NamedTuple):
    """What the small matrices say about every row."""

    B: Array  # coefficients [..., rows, n, r]: B' = the panels of B times these
    A: Array  # coefficients [..., rows, n, r]: A' = these, transposed, times the panels of A
    singular_values: Array  # all n, decreasing, [..., rows, n]
    refused: Array  # index into REASONS, [..., rows]
    graded: Array  # to be multiplied in float64, [..., rows]


def solve_core(grams: Grams, weights: Array, rank: int, longest: int, precision: Precision) -> Core:
    """Return coefficients and singular values for rows of weights [rows, n]; g is 1 or rows.

    longest: max(d, k), the number of terms in an entry of a Gram matrix.
    """
    xp = namespace(grams.B)
    double, _, promised, _ = precision
    n = int(grams.B.shape[-1])
    eta = (n * longest) ** 0.5 * UNIT
    size_B, size_A = (xp.sqrt(xp.linalg.diagonal(G)) for G in (grams.B, grams.A))
    alive = (size_B > 0) & (size_A > 0)
    if alive.shape[-2] == len(weights):
        alive = alive & (weights != 0)  # not the padding of a row with few neighbours
    unit_B, unit_A = (
        xp.where(alive, 1 / xp.where(alive, x, xp.ones_like(x)), xp.zeros_like(x))
        for x in (size_B, size_A)
    )
    G_B, G_A = _unit_diagonal(grams.B, unit_B), _unit_diagonal(grams.A, unit_A)
    w, half = _scaled_weights(xp.where(alive, weights, xp.zeros_like(weights)), size_B, size_A)
    far = _farthest(w, half, size_B, size_A) > precision.reach
    refused = RANGE * xp.astype(
        xp.logical_or(far, xp.any(xp.logical_and(grams.unfit, weights != 0), axis=-1)), xp.int8
    )
    if double:
        G_B, G_A, ill = _without_ill_conditioned(G_B, G_A, 2 * promised / eta)
        refused = xp.where(xp.logical_and(refused == 0, ill), CONDITIONING, refused)
    w = xp.where((refused == 0)[..., None], w, xp.zeros_like(w))
    L_B, L_A = (_cholesky(G, 0.0 if double else eta) for G in (G_B, G_A))
    US, S, V = (_by_svd if double else _by_eigenvectors)(transpose(L_B) @ (w[..., :, None] * L_A))
    noise = n**0.5 * UNIT * xp.sum(xp.abs(w), axis=-1)
    if not double:
        noise = xp.maximum(
            noise, eta**0.5 * xp.maximum(_weighted_size(G_B, w), _weighted_size(G_A, w))
        )
    first = S[..., 0]
    cancels = xp.logical_and(refused == 0, noise > promised * first)
    refused = xp.where(cancels, CANCELLATION, refused)
    S = xp.where(
        xp.logical_and(S > noise[..., None], (refused == 0)[..., None]), S, xp.zeros_like(S)
    )
    kept = S[..., :rank]
    inverse = 1 / xp.sqrt(xp.where(kept > 0, kept, xp.inf))[..., None, :]
    C_B = w[..., :, None] * (L_A @ V[..., :rank]) * inverse
    C_A = w[..., :, None] * (L_B @ US[..., :rank]) * inverse**3
    largest = xp.maximum(_longest_column(C_B), _longest_column(C_A))
    graded = 2 * precision.unit * largest > promised * xp.sqrt(first)
    graded = xp.logical_and(graded, refused == 0)
    if double:
        refused, graded = xp.where(graded, GRADING, refused), xp.zeros_like(graded)
    exponent = half[..., None]
    return Core(
        scale_by(C_B * unit_B[..., :, None], exponent[..., None]),
        scale_by(C_A * unit_A[..., :, None], exponent[..., None]),
        scale_by(S, 2 * exponent),
        refused,
        graded,
    )


def _unit_diagonal(G: Array, unit: Array) -> Array:
    """Return G scaled by `unit` to a unit diagonal; where that is 0, an axis apart."""
    xp = namespace(G)
    apart = xp.eye(G.shape[-1], dtype=G.dtype, device=G.device) * (unit == 0)[..., None]
    return G * unit[..., :, None] * unit[..., None, :] + apart


def _scaled_weights(weights: Array, size_B: Array, size_A: Array) -> tuple[Array, Array]:
    """Return w_j = pi_j |b_j||a_j| 2^(-2e), the largest in [1/16, 1), and e, [..., rows]."""
    xp = namespace(weights)
    parts = [xp.frexp(x) for x in (weights, size_B, size_A)]
    (w, e), (b, e_b), (a, e_a) = parts
    w, e = w * (b * a), e + (e_b + e_a)
    top = xp.max(xp.where(w != 0, e, xp.full_like(e, -(2**20))), axis=-1)
    half = xp.where(xp.any(w != 0, axis=-1), (top + 1) // 2, xp.zeros_like(top))
    return scale_by(w, e - 2 * half[..., None]), half


def _farthest(w: Array, half: Array, size_B: Array, size_A: Array) -> Array:
    """Return the largest exponent of the coefficients, up or down, [..., rows]."""
    xp = namespace(w)
    away = (xp.abs(half[..., None] - exponent_of(size)) for size in (size_B, size_A))
    away = xp.maximum(*away)
    return xp.max(xp.where(w != 0, away, xp.zeros_like(away)), axis=-1)


def _without_ill_conditioned(G_B: Array, G_A: Array, most: float) -> tuple[Array, Array, Array]:
    """Return both matrices, or the identity where 1/lambda_min add up to above `most`."""
    xp = namespace(G_B)
    least = [xp.linalg.eigvalsh(G)[..., 0] for G in (G_B, G_A)]
    ill = most * least[0] * least[1] < least[0] + least[1]
    ill = xp.logical_or(ill, xp.minimum(*least) <= 0)
    one = xp.eye(G_B.shape[-1], dtype=G_B.dtype, device=G_B.device)
    G_B, G_A = (xp.where(ill[..., None, None], one, G) for G in (G_B, G_A))
    return G_B, G_A, ill


def _cholesky(G: Array, shift: float) -> Array:
    """Return L with LL' = G + shift I, from eigenvectors where rounding left that indefinite."""
    xp = namespace(G)
    try:
        return xp.linalg.cholesky(G + shift * xp.eye(G.shape[-1], dtype=G.dtype, device=G.device))
    except xp.linalg.LinAlgError:
        values, V = xp.linalg.eigh(G)
        return V * xp.sqrt(xp.clip(values, min=0.0))[..., None, :]


def _by_svd(C: Array) -> tuple[Array, Array, Array]:
    xp = namespace(C)
    U, S, Vh = xp.linalg.svd(C)
    return U * S[..., None, :], S, transpose(Vh)


def _by_eigenvectors(C: Array) -> tuple[Array, Array, Array]:
    xp = namespace(C)
    squares, V = xp.linalg.eigh(transpose(C) @ C)
    V = xp.flip(V, axis=-1)
    return C @ V, xp.sqrt(xp.flip(xp.clip(squares, min=0.0), axis=-1)), V


def _weighted_size(G: Array, w: Array) -> Array:
    """Return |W G W|_F^(1/2), at least the norm of the weighted panel."""
    xp = namespace(G)
    return xp.sum((G * w[..., :, None] * w[..., None, :]) ** 2, axis=(-2, -1)) ** 0.25


def _longest_column(C: Array) -> Array:
    xp = namespace(C)
    return xp.sqrt(xp.max(xp.sum(C**2, axis=-2), axis=-1))
