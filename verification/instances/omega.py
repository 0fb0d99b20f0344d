"""Omega_c, and mixes on it, shared by the claims on smoothness and interference.

Mixes of several agents come from `mixes`; here they are brought onto the set of Assumption 2,
Omega_c = {sigma_1(A) <= c, sigma_1(B) <= c}.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors
from verification.claim import Context
from verification.evidence import ulps
from verification.instances.mixes import Mix


def on_omega(factors: Factors, c: float) -> Factors:
    """Return each matrix scaled to largest singular value c, on the boundary of Omega_c.

    Zero matrices stay zero. The result exceeds c by rounding only: see `inside_omega`.
    """
    xp = namespace(factors.B)

    def scaled(X: Any) -> Any:
        top = xp.linalg.matrix_norm(X, ord=2)[..., None, None]
        return c * X / xp.where(top > 0, top, xp.ones_like(top))

    return Factors(scaled(factors.B), scaled(factors.A))


def clip(X: Any, top: float) -> Any:
    """Return the nearest matrix with singular values of at most `top`, [..., a, b].

    A projection onto a convex set: it never increases the Frobenius distance of two matrices.
    """
    xp = namespace(X)
    U, S, Vh = xp.linalg.svd(X, full_matrices=False)
    return (U * xp.clip(S, 0, top)[..., None, :]) @ Vh


def polar(X: Any) -> Any:
    """Return the maximizer of <X, .> over the matrices with singular values of at most one."""
    U, _, Vh = namespace(X).linalg.svd(X, full_matrices=False)
    return U @ Vh


def mix_on_omega(mix: Mix, c: float) -> Mix:
    """Return the mix with every agent's factors on the boundary of Omega_c."""
    return mix._replace(factors=on_omega(mix.factors, c))


def inside_omega(factors: Factors, c: float) -> Any:
    """Return a mask [...] of the factors that lie in Omega_c, up to the rounding of an SVD.

    LAPACK's singular values are off by at most a small multiple of max(d, k) eps sigma_1.
    """
    xp = namespace(factors.B)
    allowed = c * (1 + ulps(4 * max(*factors.shape, factors.rank)))
    top_B, top_A = (xp.linalg.matrix_norm(X, ord=2) for X in factors)
    return xp.logical_and(top_B <= allowed, top_A <= allowed)


def mix_of(ctx: Context, family: str, B: Any, A: Any, weights: Any) -> Mix:
    """Return a mix under one row of weights [m], on the run's device.

    Factors of one instance, B [m, d, r], or of several, B [instances, m, d, r].
    """
    B, A = (x[None] if np.ndim(x) == 3 else x for x in (B, A))
    return Mix(family, Factors(ctx.array(B), ctx.array(A)), ctx.array(weights)[None])


def signed(B: np.ndarray, A: np.ndarray, signs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return agents (+-B, +-A), one a sign, B [m, d, r], A [m, r, k]: all hold the product BA."""
    column = np.asarray(signs, dtype=np.float64)[:, None, None]
    return column * B, column * A


def closing_angles(weights: Any) -> np.ndarray:
    """Return angles with sum_j pi_j (cos, sin)(angle_j) = 0, for weights of at most 1/2 each.

    The largest weight, then the others in order of size as long as they sum to at most 1/2, then
    the rest, make the three sides of a triangle; its angles are those of three equal weights where
    the sides are equal: 0, 120, 240 degrees.
    """
    pi = np.asarray(weights, dtype=np.float64)
    order = np.argsort(-pi, kind="stable")
    second = np.concatenate([[False], np.cumsum(pi[order[1:]]) <= 0.5])
    group = np.empty(len(pi), dtype=np.int64)
    group[order] = np.where(second, 1, 2)
    group[order[0]] = 0
    a, b, c = np.bincount(group, weights=pi, minlength=3)
    # the law of cosines; rounding may leave [-1, 1] where the triangle is flat
    cosine = (a * a + b * b - c * c) / (2 * a * b)
    at_b = np.pi - np.arccos(np.clip(cosine, -1, 1))
    closing = -(a + b * np.exp(1j * at_b))
    return np.array([0.0, at_b, np.angle(closing)])[group]


def closing_rotations(weights: Any) -> np.ndarray:
    """Return orthogonal O_j [5, 3, 3] with sum_j pi_j O_j = 0, where five weights have them.

    O_j = s_j R(q_j) for unit quaternions q_j with sum_j s_j pi_j q_j q_j' = t, which R maps to 0.
    ValueError: weights that have none by the criterion of T11-odd other than delta = 0.
    """
    pi = np.asarray(weights, dtype=np.float64)
    signs = np.ones(5)
    q = np.zeros((5, 4))
    if pi.max() <= 0.25:
        # the columns of the projection 1 - uu' have squares 1 - u_j^2 = 4 pi_j
        u = np.sqrt(1 - 4 * pi)
        q = np.linalg.svd(u[None])[2][1:].T / np.sqrt(4 * pi)[:, None]
        return signs[:, None, None] * scipy.spatial.transform.Rotation.from_quat(q).as_matrix()
    for j in range(5):
        others = np.delete(pi, j)
        t = (1 - 2 * pi[j]) / 4
        if others.min() >= t:
            # t + pi_j uu' has the weights of the others on its diagonal
            u = np.sqrt((others - t) / pi[j])
            root = np.sqrt(t) * np.eye(4) + (np.sqrt(t + pi[j]) - np.sqrt(t)) * np.outer(u, u)
            q[np.arange(5) != j] = root / np.sqrt(others)[:, None]
            q[j] = u
            signs[j] = -1
            return signs[:, None, None] * scipy.spatial.transform.Rotation.from_quat(q).as_matrix()
    raise ValueError(f"weights must meet the criterion of T11-odd, got {weights}")


def each(bound: Any, **letters: Any) -> np.ndarray:
    """Return bound(letter=...) at every point of the broadcast arrays `letters`."""
    arrays = np.broadcast_arrays(*letters.values())
    points = zip(*(array.ravel().tolist() for array in arrays), strict=True)
    values = [bound(**dict(zip(letters, point, strict=True))) for point in points]
    return np.reshape(values, arrays[0].shape)
