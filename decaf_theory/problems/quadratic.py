"""Quadratic losses with a curvature of each agent's own, and their constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, convert, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.problems.base import Constants, NoiseKind, Problem, entry_noise, finite, require
from decaf_theory.topology import target_weights

Real: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
EPS = float(np.finfo(np.float64).eps)


def quadratic(
    curvatures: Any,
    targets: Any,
    *,
    radius: float | None = None,
    name: str = "quadratic",
    tau: float = 0.0,
    noise: NoiseKind = "gauss",
    Pi: Array | None = None,
    start: Factors | None = None,
    shares: Sequence[float] | None = None,
) -> Problem:
    """Return f_i(W) = tr((W - W_i*) S_i (W - W_i*)') / 2 with W0 = 0: least squares of each agent.

    targets W_i* [N, d, k]. curvatures S_i: symmetric matrices [N, k, k] (of inputs x and outputs
    W_i* x, S_i = E x x'), their diagonals if they have no more [N, k], one number for each agent
    [N], or one for all. They may have negative eigenvalues. With C_i = W_i* S_i, grad f_i =
    W S_i - C_i, so:
    L = max_i |S_i|_op, attained at every W. m = -(least eigenvalue of any S_i), 0 at the least.
    G(s, c) = max_i (s c^2 |S_i|_op + |C_i|_op), upper. sigma^2 = tau^2 d k (see `entry_noise`).
    grad f_i - grad F = W (S_i - Sbar) - (C_i - Cbar): kappa^2 = (1/N) sum_i |C_i - Cbar|_F^2 at
    every W if all S_i are equal. Else it has no bound on the whole space; on |W|_F <= radius kappa
    is the largest value there, by Lagrange duality (`largest_on_ball`), None without a radius.
    F_star by the normal equations W Sbar = Cbar, None where F has no lower bound. mu is the least
    eigenvalue of Sbar above k eps L, which counts as zero.
    shares: weights by which the agents count in F and in these means, as a `Config`'s target.
    ValueError: other shapes, entries that are not finite, matrices that are not symmetric.
    """
    W_star = finite("targets", targets)
    if W_star.ndim != 3 or 0 in W_star.shape:
        raise ValueError(f"targets must be finite [N, d, k], got shape {W_star.shape}")
    N, d, k = W_star.shape
    S = _curvatures(curvatures, N, k)
    C = _times(W_star, S)

    def grad(W: Array) -> Array:
        return _times(W - convert(W_star, W), convert(S, W))

    def loss(W: Array) -> Array:
        gap, own = W - convert(W_star, W), convert(S, W)
        squares = (gap @ own) * gap if _dense(S) else gap**2 * own
        return namespace(W).sum(squares, axis=(-2, -1)) / 2

    matrices = S if _dense(S) else S * np.eye(k)
    values = np.linalg.eigvalsh(matrices) if _dense(S) else S[:, 0, :]
    sizes = np.abs(values).max(axis=1)
    pulls = np.linalg.norm(C, ord=2, axis=(1, 2))
    L = float(sizes.max())
    equal = bool(np.all(S == S[:1]))
    pi = None if shares is None else target_weights(shares, N, "shares")
    F_star, mu = _lowest(W_star, matrices, k * EPS * L, pi)
    drawn = entry_noise(tau, noise)
    constants = Constants(
        L=L,
        G=lambda s, c: float(np.max(s * c**2 * sizes + pulls)),
        kappa=_kappa(matrices, C, radius, equal, pi),
        sigma=tau * (d * k) ** 0.5,
        F_star=F_star,
        within=np.inf if equal or radius is None else float(radius),
        upper=("G",) if equal else ("G", "kappa"),
        m=max(0.0, -float(values.min())),
        mu=mu,
        shares=None if pi is None else tuple(pi.tolist()),
    )
    return Problem(name, N, d, k, loss, grad, constants, noise=drawn, Pi=Pi, start=start)


def _curvatures(given: Any, N: int, k: int) -> Real:
    """Return the curvatures as diagonals [N, 1, k], or as matrices [N, k, k]."""
    S = finite("curvatures", given)
    if S.ndim == 3 and S.shape == (N, k, k):
        skew = np.abs(S - S.mT).max(axis=(1, 2))
        worst = int(skew.argmax())
        if skew[worst] > 0:
            raise ValueError(
                f"curvatures must be symmetric, those of agent {worst} differ by {skew[worst]:.3g} "
                f"from their transpose; (S + S.mT) / 2 gives the same loss"
            )
        return S
    if S.shape not in ((), (N,), (N, k)):
        raise ValueError(
            f"curvatures must be a number, one for each agent [{N}], diagonals [{N}, {k}] or "
            f"matrices [{N}, {k}, {k}], got shape {S.shape}"
        )
    # of numbers, the same in every column
    return np.array(np.broadcast_to(S if S.ndim == 2 else S[..., None], (N, k)))[:, None, :]


def _dense(S: Array) -> bool:
    """Whether curvatures are matrices, and not diagonals [N, 1, k]; of k = 1 they are both."""
    return bool(S.shape[-2] > 1)


def _times(X: Array, S: Array) -> Array:
    return X @ S if _dense(S) else X * S


def _kappa(S: Real, C: Real, radius: float | None, equal: bool, pi: Real | None) -> float | None:
    root = 1.0 if pi is None else np.sqrt(len(pi) * pi)[:, None, None]  # so that means are weighted
    D = root * (C - np.average(C, axis=0, weights=pi))
    if equal:
        return float(np.sqrt(np.sum(D**2) / len(D)))
    if radius is None:
        return None
    require("radius", radius, ">= 0", radius >= 0)
    R = root * (S - np.average(S, axis=0, weights=pi))
    M = np.mean(R @ R, axis=0)
    Q = np.mean(D @ R, axis=0)
    return float(np.sqrt(np.sum(D**2) / len(D) + largest_on_ball(M, Q, radius)))


def largest_on_ball(M: Real, Q: Real, radius: float) -> float:
    """Return the largest tr(W M W') - 2 <W, Q> over |W|_F <= radius, M >= 0 [k, k], Q [d, k].

        min over l >= m_1 of  l radius^2 + sum_j |q_j|^2 / (l - m_j)

    m_j the eigenvalues of M, the largest m_1, and q_j the columns of Q in their basis: the dual of
    a trust region, which has no gap. Each l gives an upper bound, so that an l that is off by
    sqrt(eps) of itself costs a share of eps.
    """
    from scipy.optimize import minimize_scalar

    values, basis = np.linalg.eigh(M)
    pulls = np.sum((Q @ basis) ** 2, axis=0)
    if radius == 0:
        return 0.0

    def dual(above: float) -> float:
        gaps = values[-1] - values + above
        parts = np.divide(pulls, gaps, out=np.where(pulls > 0, np.inf, 0.0), where=gaps > 0)
        return float((values[-1] + above) * radius**2 + np.sum(parts))

    # the root of the derivative: |q_1|^2 / above^2 <= radius^2 <= |Q|^2 / above^2
    low, high = np.sqrt(pulls[-1]) / radius, np.sqrt(pulls.sum()) / radius
    found = minimize_scalar(dual, bounds=(low, high), method="bounded", options={"xatol": 0.0})
    return min(dual(low), dual(high), float(found.fun))


def _lowest(
    W_star: Real, S: Real, zero: float, pi: Real | None
) -> tuple[float | None, float | None]:
    """Return F_star and mu, None where there is none; eigenvalues up to `zero` count as zero."""
    values, basis = np.linalg.eigh(np.average(S, axis=0, weights=pi))
    pull = np.average(W_star @ S, axis=0, weights=pi) @ basis  # Cbar, column by column of the basis
    flat = values <= zero
    # a pull of rounding is none: of sums of N k products
    size = len(S) * zero * np.abs(W_star).max()
    if values[0] < -zero or np.any(np.abs(pull[:, flat]) > size):
        return None, None
    mu = float(values[~flat].min()) if not flat.all() else None
    return quadratic_minimum(W_star, S, pi=pi), mu


def quadratic_minimum(
    targets: Real, S: Any, A: Real | None = None, s: float = 1.0, pi: Real | None = None
) -> float:
    """Return min over B of (1/N) sum_i tr (W - W_i*) S_i (W - W_i*)' / 2, W = s B A or free.

    Means have the weights pi [N], if they are given. The normal equations are B (s A Sbar A') =
    Cbar A' with Cbar the mean of W_i* S_i, solved in the least-squares sense, which is exact: they
    are consistent as Cbar lies in Sbar's range.
    """
    S = np.asarray(S, dtype=np.float64)
    k = targets.shape[-1]
    panel = np.eye(k) if A is None else s * A
    mean_C = np.average(targets @ S, axis=0, weights=pi)
    mean_S = np.average(S, axis=0, weights=pi)
    B = mean_C @ panel.T @ np.linalg.pinv(panel @ mean_S @ panel.T, hermitian=True)
    gap = B @ panel - targets
    return float(np.average(np.sum((gap @ S) * gap, axis=(1, 2)), weights=pi) / 2)
