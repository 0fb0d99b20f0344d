"""The singular value decomposition of many small matrices at once, by one-sided Jacobi rotations.

from decaf_theory.tsvd.jacobi import svd
U, S, Vh = svd(A)               # as xp.linalg.svd(A, full_matrices=False), A [..., p, q]

For cores of up to 64 x 64 on devices where the batched routines of LAPACK's kind are slow or
unsafe. Array operations only: NumPy and torch on any device run the same code.

Why one-sided. Both cores of the panel path start from C = L_B' W L_A: float64 data need its SVD,
narrower data the eigenvectors V of C'C. Rotating the columns of C until they are orthogonal yields
C V = U S, and V is those eigenvectors, found without forming C'C, which loses half of the digits of
the small ones. One solver serves both. Errors in sigma_i are small relative to sigma_i itself
whenever C = (well-conditioned) x (diagonal), however steep the diagonal.

Rounds. A sweep treats every pair of columns once. Round t pairs all i + j = t modulo n, n odd, the
number of columns or one less; in the latter case the column i = j = t/2, left alone, is paired with
the last one. So the pairs of a round are disjoint: a round is one gather of partners, one dot
product and one combination of columns, for the whole batch.

Rotations. Columns i < j at a cosine above `tolerance` are turned until they are orthogonal and the
longer one is column i; others only change places if need be. The angle is accurate to its last
digits, so near the end what is left of a cosine is rounding: two errors of u = eps/2 in each entry
of either column, 4u at most, and sqrt(p) u from a dot product of p terms of random sign. The
tolerance is twice their sum, (4 + sqrt(p)) eps. A sweep that moves nothing has measured every pair,
and ends the work: |U'U - I| <= q tolerance, below LAPACK's threshold 50 p eps for every q <= p.

Range. Each matrix is scaled by a power of two to just below the root of overflow. Columns shorter
than sqrt(tiny/eps), whose squares lose digits, count as zero: relative to the largest entry,
1e-298 in float64 and 1e-32 in float32.
"""

from __future__ import annotations

from functools import cache
from math import log2, prod, sqrt
from typing import Any

import numpy as np

from decaf_theory.arrays import Array, eps, namespace, require_real, transpose, working
from decaf_theory.tsvd.mixing import exponent_of, first_false, scale_by

SWEEPS = 100  # 5 to 15 are usual; the most seen is 36, for rows graded over 290 decades


def svd(A: Array) -> tuple[Array, Array, Array]:
    """Return U [..., p, m], S [..., m] decreasing and Vh [..., m, q], m = min(p, q), A = U S Vh.

    U and V have orthonormal columns even if A is rank-deficient or zero. Half types are raised
    to float32. ValueError: dtype, an empty side, a non-finite entry, a singular value beyond the
    dtype; LinAlgError (a ValueError): no convergence. They name the batch index of the matrix.
    """
    xp = namespace(A)
    tall, exponent = prepare(A)
    check_finite(A)
    p, q = tall.shape[-2:]
    one = xp.eye(q, dtype=tall.dtype, device=tall.device)
    one = xp.broadcast_to(one, (*tall.shape[:-2], q, q))
    rows, settled = _orthogonal_rows(xp.concat([transpose(tall), one], axis=-1), p)
    check_settled(settled)
    S = xp.sqrt(xp.sum(rows[..., :p] ** 2, axis=-1))
    S = xp.where(S < shortest(S), xp.zeros_like(S), S)
    U = transpose(_unit_rows(rows[..., :p], S))
    found = finish(A, U, S, rows[..., p:], exponent)
    check_range(found[1])
    return found


def prepare(A: Array) -> tuple[Array, Array]:
    """Return A 2^-e, turned to p >= q, with |A|_F up to the root of overflow, and e.

    ValueError: dtype or shape.
    """
    require_real("A", A)
    if A.ndim < 2 or 0 in A.shape[-2:]:
        raise ValueError(f"A must be [..., p, q] with p, q >= 1, got shape {tuple(A.shape)}")
    xp = namespace(A)
    A = working(A)
    top = int(log2(float(xp.finfo(A.dtype).max) / prod(A.shape[-2:])) / 2) - 1
    exponent = exponent_of(xp.max(xp.abs(A), axis=(-2, -1))) - top
    scaled = scale_by(A, -exponent[..., None, None])
    return (scaled if A.shape[-2] >= A.shape[-1] else transpose(scaled)), exponent


def finish(A: Array, U: Array, S: Array, Vh: Array, exponent: Array) -> tuple[Array, Array, Array]:
    """Undo `prepare` on the results."""
    with np.errstate(over="ignore"):  # an error, see `check_range`
        S = scale_by(S, exponent[..., None])
    return (U, S, Vh) if A.shape[-2] >= A.shape[-1] else (transpose(Vh), S, transpose(U))


def check_finite(A: Array) -> None:
    """Raise ValueError unless every entry of A [..., p, q] is finite."""
    xp = namespace(A)
    finite = xp.all(xp.isfinite(A), axis=(-2, -1))
    if not bool(xp.all(finite)):
        raise ValueError(f"A is not finite at batch index {first_false(finite)}")


def check_range(S: Array) -> None:
    """Raise ValueError if a largest singular value, of [..., m], is infinite."""
    xp = namespace(S)
    finite = xp.isfinite(S[..., 0])
    if not bool(xp.all(finite)):
        raise ValueError(
            f"a singular value at batch index {first_false(finite)} overflows {S.dtype}; "
            f"scale A down"
        )


def check_settled(settled: Array) -> None:
    """Raise LinAlgError unless every matrix is settled [...]."""
    if not bool(namespace(settled).all(settled)):
        raise np.linalg.LinAlgError(
            f"Jacobi rotations of the matrix at batch index {first_false(settled)} did not "
            f"converge in {SWEEPS} sweeps"
        )


def tolerance(x: Array, p: int) -> float:
    """Return the cosine up to which columns of p entries count as orthogonal."""
    return (4 + sqrt(p)) * eps(x)


def shortest(x: Array) -> float:
    """Return the length below which a scaled column is zero: squares of longer ones keep digits."""
    info = namespace(x).finfo(x.dtype)
    return sqrt(float(info.smallest_normal) / float(info.eps))


@cache
def partners(q: int) -> np.ndarray[Any, Any]:
    """Return the partner of each column in each round [rounds, q]; itself when it sits out."""
    n = q - 1 + q % 2
    i, t = np.arange(n), np.arange(n)[:, None]
    table = (t - i) % n
    if q == n:
        return table
    alone = table == i
    last = np.argmax(alone, axis=1)[:, None]
    return np.concatenate([np.where(alone, n, table), last], axis=1)


def _orthogonal_rows(Z: Array, p: int) -> tuple[Array, Array]:
    """Rotate rows of Z [..., q, p + q] until their first p entries are orthogonal and sorted.

    Returns them and whether the last sweep found nothing to do [...].
    """
    xp = namespace(Z)
    rounds = [xp.asarray(partner, device=Z.device) for partner in partners(int(Z.shape[-2]))]
    for _ in range(SWEEPS):
        settled = xp.ones(Z.shape[:-2], dtype=xp.bool, device=Z.device)
        for partner in rounds:
            Z, moved = _round(Z, p, partner)
            settled = xp.logical_and(settled, xp.logical_not(xp.any(moved, axis=-1)))
        if bool(xp.all(settled)):
            break
    return Z, settled


def _round(Z: Array, p: int, partner: Array) -> tuple[Array, Array]:
    """Rotate every row of Z with its partner; return all rows and which of them moved."""
    xp = namespace(Z)
    own = xp.arange(Z.shape[-2], device=Z.device)
    first, alone = own < partner, own == partner
    other = xp.take(Z, partner, axis=-2)
    alpha = xp.sum(Z[..., :p] ** 2, axis=-1)
    gamma = xp.sum(Z[..., :p] * other[..., :p], axis=-1)
    gamma = xp.where(first, gamma, xp.take(gamma, partner, axis=-1))  # one number for both
    beta = xp.take(alpha, partner, axis=-1)
    delta = xp.where(first, alpha - beta, beta - alpha)
    long = xp.minimum(alpha, beta) >= shortest(Z) ** 2
    bent = xp.abs(gamma) > tolerance(Z, p) * (xp.sqrt(alpha) * xp.sqrt(beta))
    turned = xp.logical_and(xp.logical_and(bent, long), xp.logical_not(alone))
    changed = delta < 0
    # half the angle of (x, y) is that of (x + |(x, y)|, y)
    y = xp.where(turned, 2 * xp.abs(gamma), xp.zeros_like(gamma))
    x = xp.where(turned, xp.abs(delta), xp.ones_like(delta))
    largest = xp.maximum(x, y)
    x, y = x / largest, y / largest
    x = x + xp.sqrt(x**2 + y**2)
    length = xp.sqrt(x**2 + y**2)
    cos, sin = x / length, y / length
    cos, sin = xp.where(changed, sin, cos), xp.where(changed, cos, sin)
    sin = xp.where((gamma > 0) == first, sin, -sin)
    return cos[..., None] * Z + sin[..., None] * other, xp.logical_or(turned, changed)


def _unit_rows(rows: Array, S: Array) -> Array:
    """Return rows [..., q, p], of lengths S, as orthonormal ones; new ones where S is zero.

    Those come last. The axis least covered by the j rows before has at least (p - j)/p of its
    square there, so that one Gram-Schmidt step loses at most a factor sqrt(p), and two are exact.
    """
    xp = namespace(rows)
    (q, p), null = rows.shape[-2:], S == 0
    unit = rows / xp.where(null, xp.inf, S)[..., None]
    axes = xp.eye(p, dtype=rows.dtype, device=rows.device)
    place = xp.arange(q, device=rows.device)[:, None]
    somewhere = xp.any(xp.reshape(null, (-1, q)), axis=0)
    for j in range(q - int(xp.count_nonzero(somewhere)), q):
        taken = xp.sum(unit**2, axis=-2)
        new = xp.take(axes, xp.reshape(xp.argmin(taken, axis=-1), (-1,)), axis=0)
        new = xp.reshape(new, (*rows.shape[:-2], 1, p))
        for _ in range(2):
            new = new - (new @ transpose(unit)) @ unit
        wanted = xp.logical_and(null[..., None], place == j)
        length = xp.sqrt(xp.sum(new**2, axis=-1, keepdims=True))
        unit = xp.where(wanted, new / xp.where(wanted, length, xp.inf), unit)
    return unit
