"""P13: agents' factors that attain the worst cases of interference (T11) and truncation (T16).

Each function returns (factors, weights): B [m, d, r] and A [m, r, k] with sigma_1(B), sigma_1(A)
<= c, and weights [m] that sum to one. d and k may exceed the least sizes that the frame needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from decaf_theory.lowrank import Factors
from decaf_theory.problems.base import sizes

Real: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Frame: TypeAlias = tuple[Factors, Real]


def isometry(n: int, r: int) -> Real:
    """Return the first r columns of I_n, [n, r]; ValueError unless r <= n."""
    if not 1 <= r <= n:
        raise ValueError(f"an isometry from R^r to R^n needs 1 <= r <= n, got r = {r}, n = {n}")
    return np.eye(n, r)


def rotations(*, d: int, k: int, r: int, c: float, angles: Real, weights: Real) -> Frame:
    """Return one product in gauges rotated by `angles` in each pair of rank directions.

    B_j = c Q R_j', A_j = c R_j Q': every product is c^2 Q Q' (rank r), and the factor means are
    c |sum_j w_j e^(i angle_j)| isometries. Where that sum is 0, the mixed factors are 0 and
    I = c^2 Q Q' attains |I|_op = c^2, |I|_F = sqrt(r) c^2, |I|_* = r c^2 at once. Even r.
    """
    sizes(d=d, k=k, r=r)
    if r % 2:
        raise ValueError(f"rotations act on pairs of directions: r must be even, got {r}")
    c_, s_ = np.cos(angles), np.sin(angles)
    plane = np.stack([np.stack([c_, -s_], -1), np.stack([s_, c_], -1)], -2)  # [m, 2, 2]
    R = np.stack([np.kron(np.eye(r // 2), P) for P in plane])
    B = c * isometry(d, r) @ R.transpose(0, 2, 1)
    return Factors(B, c * R @ isometry(k, r).T), np.asarray(weights, dtype=np.float64)


def mercedes(*, d: int, k: int, r: int = 2, c: float = 1.0) -> Frame:
    """Return three agents of weight 1/3 with one product in gauges turned by 0, 120, 240 degrees.

    Attains T11 in all three norms for even r although pi_max = 1/3: the factor means are zero.
    """
    angles = 2 * np.pi * np.arange(3) / 3
    return rotations(d=d, k=k, r=r, c=c, angles=angles, weights=np.full(3, 1 / 3))


def sign_flip(*, d: int, k: int, r: int, c: float = 1.0, pi_max: float = 0.5, m: int = 2) -> Frame:
    """Return a heavy agent (B, A) of weight pi_max >= 1/2 against m - 1 agents (-B, -A).

    B and A are c-isometries: I = (1 - (2 pi_max - 1)^2) B A = 4 pi_max (1 - pi_max) B A attains
    T11 in all three norms at once.
    """
    sizes(d=d, k=k, r=r, m=m)
    if not (0.5 <= pi_max < 1 and m >= 2):
        raise ValueError(f"sign_flip needs 1/2 <= pi_max < 1 and m >= 2, got {pi_max}, {m}")
    sign = np.where(np.arange(m) == 0, 1.0, -1.0)[:, None, None]
    factors = Factors(c * sign * isometry(d, r), c * sign * isometry(k, r).T)
    return factors, np.array([pi_max] + [(1 - pi_max) / (m - 1)] * (m - 1))


def planar(*, d: int, k: int, r: int, c: float = 1.0, angles: Real, weights: Real) -> Frame:
    """Return B_j = A_j' = c u_j x I_r with u_j = (cos, sin) of angle_j in R^2. Needs d, k >= 2r.

    The mix is c^2 (sum_j w_j u_j u_j') x I_r. Where sum_j w_j e^(2i angle_j) = 0 it is
    (c^2/2) I_2r: r singular values c^2/2 are dropped, so |E|_F = sqrt(r) c^2 / 2 attains T16 in
    Frobenius norm (possible for every pi_max <= 1/2).
    """
    sizes(d=d, k=k, r=r)
    u = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # [m, 2]
    tall = np.stack([np.kron(v[:, None], np.eye(r)) for v in u])  # [m, 2r, r]
    B = c * isometry(d, 2 * r) @ tall
    A = c * tall.transpose(0, 2, 1) @ isometry(k, 2 * r).T
    return Factors(B, A), np.asarray(weights, dtype=np.float64)


def tripod(*, d: int, k: int, r: int = 1, c: float = 1.0) -> Frame:
    """Return `planar` with three agents of weight 1/3 at 0, 60 and 120 degrees."""
    angles = np.pi * np.arange(3) / 3
    return planar(d=d, k=k, r=r, c=c, angles=angles, weights=np.full(3, 1 / 3))


def omitted(*, d: int, k: int, r: int, c: float = 1.0) -> Frame:
    """Return r + 1 agents of equal weight, each omitting one coordinate of r + 1. d, k >= r + 1.

    The mix is c^2 r/(r+1) I_(r+1), so |E|_op = c^2 r/(r+1) = c^2 (1 - pi_max) attains T16 in
    operator norm.
    """
    sizes(d=d, k=k, r=r)
    keep = np.stack([np.delete(np.eye(r + 1), j, axis=1) for j in range(r + 1)])  # [m, r+1, r]
    B = c * isometry(d, r + 1) @ keep
    A = c * keep.transpose(0, 2, 1) @ isometry(k, r + 1).T
    return Factors(B, A), np.full(r + 1, 1 / (r + 1))


def orthogonal(*, d: int, k: int, r: int, c: float = 1.0, weights: Real) -> Frame:
    """Return agents on mutually orthogonal coordinate blocks of size r. Needs d, k >= m r.

    The mix is c^2 diag(w_j) x I_r. With pi_max >= 1/2 and m = 2, E = c^2 (1 - pi_max) I_r attains
    T16 in operator, Frobenius and nuclear norm (op: where 1 - pi_max <= r/(r+1), always so here).
    """
    sizes(d=d, k=k, r=r)
    w = np.asarray(weights, dtype=np.float64)
    m = len(w)
    block = np.stack([np.eye(m * r)[:, j * r : (j + 1) * r] for j in range(m)])  # [m, mr, r]
    B = c * isometry(d, m * r) @ block
    A = c * block.transpose(0, 2, 1) @ isometry(k, m * r).T
    return Factors(B, A), w


FRAMES: dict[str, Callable[..., Frame]] = {
    "sign_flip": sign_flip,
    "mercedes": mercedes,
    "rotations": rotations,
    "tripod": tripod,
    "planar": planar,
    "omitted": omitted,
    "orthogonal": orthogonal,
}
